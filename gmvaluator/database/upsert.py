"""The one statement whose spelling differs between SQLite and PostgreSQL: insert what is not there yet."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_missing(connection: Connection, table: Table) -> Any:
    """Insert that skips rows which collide with a key of `table`."""
    return upserting_insert(connection.dialect, table).on_conflict_do_nothing()


def upserting_insert(dialect: Dialect, table: Table) -> Any:
    """The dialect's own insert, which knows ON CONFLICT."""
    return sqlite.insert(table) if dialect.name == "sqlite" else postgresql.insert(table)
