"""Schemas: revisions and migrations, append-only tables, inserts that skip existing rows, and instants as text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, Table, column, event, inspect, select, table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import DDL, ExecutableDDLElement

from gmvaluator.errors import InvalidInput, MissingData, PreconditionFailed

_VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """The schema that a database must have; `revision` is the newest of the Alembic scripts in `migrations`.

    Revisions are numbered "0001", "0002", …, so that an older one can be told from a newer one without the scripts.
    """

    name: str
    revision: str
    migrations: Path


def migrate(engine: Engine, schema: SchemaRevision) -> None:
    """Upgrade the database to `schema` in one transaction; cheap if it is up to date.

    Raises PreconditionFailed if a newer gmvaluator wrote the database.
    """
    with engine.begin() as connection:
        stored = stored_revision(connection)
        if stored != schema.revision:
            _refuse_newer(stored, schema)
            _upgrade(connection, schema)


def check_revision(engine: Engine, schema: SchemaRevision) -> None:
    """Raise PreconditionFailed unless the database is at `schema`, MissingData if it is empty."""
    with engine.connect() as connection:
        stored = stored_revision(connection)
    if stored == schema.revision:
        return
    writes = "(`gmvaluator serve` for the ledger, `gmvaluator index add` for the catalogue)"
    if stored is None:
        raise MissingData(f"there is no {schema.name} there yet (schema none): run a command that makes it {writes}")
    _refuse_newer(stored, schema)
    raise PreconditionFailed(
        f"the {schema.name} was written by an older gmvaluator (schema {stored}, this one reads {schema.revision}): "
        f"run a command that writes it once, which upgrades it {writes}"
    )


def stored_revision(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no schema yet."""
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    revision: str | None = connection.execute(select(column("version_num")).select_from(table(_VERSION_TABLE))).scalar()
    return revision


def _refuse_newer(stored: str | None, schema: SchemaRevision) -> None:
    if stored is not None and stored > schema.revision:
        raise PreconditionFailed(
            f"the {schema.name} was written by a newer gmvaluator (schema {stored}, this one knows up to "
            f"{schema.revision}): upgrade gmvaluator"
        )


def _upgrade(connection: Connection, schema: SchemaRevision) -> None:
    # Imported here: Alembic takes longer to load than an up-to-date database takes to open.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def forbid_changes(table: Table) -> None:
    """Create triggers together with `table` that refuse UPDATE and DELETE, and TRUNCATE on PostgreSQL."""
    for dialect in ("sqlite", "postgresql"):
        for statement in change_guards(table.name, dialect):
            trigger: ExecutableDDLElement = DDL(statement)  # type: ignore[no-untyped-call]
            event.listen(table, "after_create", trigger.execute_if(dialect=dialect))


def change_guards(table_name: str, dialect: str) -> list[str]:
    """Return the statements that create a table's triggers against changes, and on PostgreSQL first their function."""
    refusal = f"{table_name} are append-only: post a correction instead"
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table_name}_no_{operation.lower()} BEFORE {operation} ON {table_name} "
            f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            for operation in ("UPDATE", "DELETE")
        ]
    return [
        f"CREATE FUNCTION refuse_change_of_{table_name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{refusal}'; END $$",
        f"CREATE TRIGGER {table_name}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table_name} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_{table_name}()",
    ]


def insert_missing(connection: Connection, table: Table) -> Any:
    """Return an INSERT that skips rows whose key exists in `table`."""
    return upserting_insert(connection.dialect, table).on_conflict_do_nothing()


def upserting_insert(dialect: Dialect, table: Table) -> Any:
    """Return the dialect's own INSERT, which supports ON CONFLICT."""
    return sqlite.insert(table) if dialect.name == "sqlite" else postgresql.insert(table)


BEGINNING = "0001-01-01T00:00:00.000000Z"
"""Text that sorts before every instant: the start of an interval without a beginning."""

END = "9999-12-31T23:59:59.999999Z"
"""Text that sorts after every instant: the end of an interval without one."""


def utc_text(instant: datetime) -> str:
    """Format an instant as UTC text of fixed width, which sorts by time on every database.

    27 characters, `2026-01-31T12:00:00.000000Z`. Raises InvalidInput if `instant` has no time zone.
    """
    if instant.utcoffset() is None:
        raise InvalidInput(f"{instant.isoformat()} has no time zone: give one, such as +00:00")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def from_utc_text(text: str) -> datetime:
    """Parse the output of `utc_text`."""
    return datetime.fromisoformat(text)
