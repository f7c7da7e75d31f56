"""Alembic migrations of the ledger; released ones are never changed."""
