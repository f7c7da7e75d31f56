"""Schema revisions: a writer brings its database up to date, a reader checks that it is.

Tables whose rows stay as they were written: the database itself refuses to change or remove them.

The one statement whose spelling differs between SQLite and PostgreSQL: insert what is not there yet.

Instants as the databases keep them: UTC text of fixed width, which sorts as time does on every engine.
"""

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
    """What a database must look like: `revision` is the newest of the Alembic scripts in `migrations`.

    Revisions are numbered "0001", "0002", …, so that an older one is told from a newer one without the scripts.
    """

    name: str
    revision: str
    migrations: Path


def migrate(engine: Engine, schema: SchemaRevision) -> None:
    """Bring the database to `schema`, in one transaction; does nothing, quickly, where it already is.

    Raises PreconditionFailed if a newer gmvaluator wrote the database.
    """
    with engine.begin() as connection:
        stored = stored_revision(connection)
        if stored != schema.revision:
            _refuse_newer(stored, schema)
            _upgrade(connection, schema)


def check_revision(engine: Engine, schema: SchemaRevision) -> None:
    """Raise PreconditionFailed, saying what to do, unless the database is at `schema`; MissingData if it is empty."""
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
    """Revision that the database says it is at; None if it has no schema yet."""
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
    """Have triggers made with `table` that refuse UPDATE and DELETE, and TRUNCATE where there is one."""
    refusal = f"{table.name} are append-only: post a correction instead"
    sqlite = [
        f"CREATE TRIGGER {table.name}_no_{operation.lower()} BEFORE {operation} ON {table.name} "
        f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        for operation in ("UPDATE", "DELETE")
    ]
    postgresql = [
        f"CREATE FUNCTION refuse_change_of_{table.name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{refusal}'; END $$",
        f"CREATE TRIGGER {table.name}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_{table.name}()",
    ]
    for dialect, statements in (("sqlite", sqlite), ("postgresql", postgresql)):
        for statement in statements:
            made: ExecutableDDLElement = DDL(statement)  # type: ignore[no-untyped-call]
            event.listen(table, "after_create", made.execute_if(dialect=dialect))


def insert_missing(connection: Connection, table: Table) -> Any:
    """Insert that skips rows which collide with a key of `table`."""
    return upserting_insert(connection.dialect, table).on_conflict_do_nothing()


def upserting_insert(dialect: Dialect, table: Table) -> Any:
    """The dialect's own insert, which knows ON CONFLICT."""
    return sqlite.insert(table) if dialect.name == "sqlite" else postgresql.insert(table)


BEGINNING = "0001-01-01T00:00:00.000000Z"
"""Before every instant: "since ever"."""

END = "9999-12-31T23:59:59.999999Z"
"""After every instant: "until further notice"."""


def utc_text(instant: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`, 27 characters. Raises InvalidInput if `instant` has no time zone."""
    if instant.tzinfo is None:
        raise InvalidInput(f"{instant.isoformat()} has no time zone: give one, such as +00:00")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def from_utc_text(text: str) -> datetime:
    """Inverse of `utc_text`."""
    return datetime.fromisoformat(text)
