"""Schema revisions: a writer brings its database up to date, a reader checks that it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table

from gmvaluator.errors import MissingData, PreconditionFailed

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
