"""Tombstones of owners who were erased."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table; owners who were erased before have no tombstone, as nothing of their ids is left."""
    op.create_table(
        "erased_owners",
        sa.Column("lookup", sa.String(64), primary_key=True),
        sa.Column("recorded_at", sa.String(27), nullable=False),
    )
