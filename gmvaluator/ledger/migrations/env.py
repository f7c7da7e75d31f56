"""Alembic environment: runs the ledger's migrations on the connection that `gmvaluator.storage.schema` passes."""

from alembic import context

from gmvaluator.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
