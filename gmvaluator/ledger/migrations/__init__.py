"""Alembic scripts of the ledger; frozen once released."""
