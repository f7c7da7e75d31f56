"""Writing a database anew, so that rows which were removed leave no bytes behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from sqlalchemy import Engine


def rewrite(writer: Engine, tables: Sequence[str]) -> bool:
    """Rewrite a SQLite file and empty its log, or rewrite `tables` on PostgreSQL; not within a transaction.

    False if SQLite's log could not be emptied because somebody was reading: what it still holds goes when the next
    writer opens the file, or when this is called again.
    """
    if writer.dialect.name != "sqlite":
        with writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in tables:
                connection.exec_driver_sql(f"VACUUM FULL {table}")
        return True
    with closing(writer.raw_connection()) as raw, closing(raw.cursor()) as cursor:
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        row = cursor.fetchone()
        return bool(row is not None and row[0] == 0)
