"""Alembic scripts of the catalogue; frozen once released."""
