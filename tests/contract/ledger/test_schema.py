"""Schemas of ledger and catalogue: the migrations make what the code declares, and its revision is the newest."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, create_engine, text

from gmvaluator.catalogue import schema as catalogue_schema
from gmvaluator.ledger import schema as ledger_schema
from gmvaluator.storage import postgresql
from gmvaluator.storage.database import Database, DataLocation, location_in
from gmvaluator.storage.schema import SchemaRevision

BOTH = pytest.mark.parametrize(
    ("revision", "metadata"),
    [
        (ledger_schema.REVISION, ledger_schema.metadata),
        (catalogue_schema.REVISION, catalogue_schema.metadata),
    ],
    ids=["ledger", "catalogue"],
)


SQLITE_OBJECTS = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"

POSTGRES_OBJECTS = """
WITH ours AS (
    SELECT oid, relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname <> 'alembic_version')
SELECT 'column ' || relname || '.' || attname,
       concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation, attidentity,
                 pg_get_expr(adbin, adrelid))
FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = ours.oid AND adnum = attnum
UNION ALL SELECT 'constraint ' || conname, relname || ' ' || pg_get_constraintdef(pg_constraint.oid)
FROM ours JOIN pg_constraint ON conrelid = ours.oid
UNION ALL SELECT 'index ' || indexrelid::regclass, pg_get_indexdef(indexrelid)
FROM ours JOIN pg_index ON indrelid = ours.oid
UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(pg_trigger.oid)
FROM ours JOIN pg_trigger ON tgrelid = ours.oid AND NOT tgisinternal
UNION ALL SELECT 'function ' || proname, pg_get_functiondef(pg_proc.oid)
FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
"""


def objects(engine: Engine) -> dict[str, str]:
    """Return the objects of a database by name, as the SQL that would make them, without spaces."""
    query = text(SQLITE_OBJECTS if engine.dialect.name == "sqlite" else POSTGRES_OBJECTS)
    with engine.connect() as connection:
        return {name: "".join(sql.split()) for name, sql in connection.execute(query)}


@contextmanager
def made_without_migrations(place: DataLocation, revision: SchemaRevision, metadata: MetaData) -> Iterator[Engine]:
    engine = postgresql.writing_engine(place.database_url, revision.name) if place.database_url else None
    engine = engine or create_engine("sqlite://")
    if place.database_url:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {revision.name} CASCADE")
            connection.exec_driver_sql(f"CREATE SCHEMA {revision.name}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@BOTH
def test_the_schema_equals_the_migrations(place: DataLocation, revision: SchemaRevision, metadata: MetaData) -> None:
    database = Database(location_in(place, "migrated.sqlite"), revision, write=True)
    migrated = objects(database.reader)
    database.close()
    with made_without_migrations(place, revision, metadata) as engine:
        assert migrated == objects(engine)
    assert len(migrated) > len(metadata.tables)


@BOTH
def test_the_revision_in_the_code_is_the_newest_script(revision: SchemaRevision, metadata: MetaData) -> None:
    assert ScriptDirectory(str(revision.migrations)).get_current_head() == revision.revision
    assert metadata.tables


def test_an_upgrade_that_breaks_half_way_leaves_nothing_behind(place: DataLocation, tmp_path: Path) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(ledger_schema.REVISION.migrations, scripts)
    (scripts / "versions" / "revision_9999.py").write_text(BROKEN.format(before=ledger_schema.REVISION.revision))
    broken = replace(ledger_schema.REVISION, revision="9999", migrations=scripts)
    location = location_in(place, "ledger.sqlite")
    Database(location, ledger_schema.REVISION, write=True).close()
    with pytest.raises(RuntimeError, match="half way"):
        Database(location, broken, write=True)
    database = Database(location, ledger_schema.REVISION, write=True)
    assert not [name for name in objects(database.reader) if "half" in name]
    database.close()


BROKEN = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "0002"


def upgrade():
    op.create_table("half", sa.Column("x", sa.Integer))
    raise RuntimeError("half way")
"""
