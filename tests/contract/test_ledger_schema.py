"""Both databases: what the migrations make is what the code says, and its revision is the newest."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, create_engine, text

from gmvaluator.catalogue import schema as catalogue_schema
from gmvaluator.database.opening import Database
from gmvaluator.database.revision import SchemaRevision
from gmvaluator.ledger import schema as ledger_schema

BOTH = pytest.mark.parametrize(
    ("revision", "metadata"),
    [
        (ledger_schema.REVISION, ledger_schema.metadata),
        (catalogue_schema.REVISION, catalogue_schema.metadata),
    ],
    ids=["ledger", "catalogue"],
)


def objects(engine: Engine) -> dict[str, str]:
    """Tables, indexes and triggers by name, as the SQL that made them, less its spacing."""
    query = text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'")
    with engine.connect() as connection:
        return {name: "".join(sql.split()) for name, sql in connection.execute(query)}


@BOTH
def test_the_schema_equals_the_migrations(tmp_path: Path, revision: SchemaRevision, metadata: MetaData) -> None:
    database = Database(tmp_path / "migrated.sqlite", revision, write=True)
    migrated = objects(database.reader)
    database.close()
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    assert migrated == objects(engine)
    engine.dispose()


@BOTH
def test_the_revision_in_the_code_is_the_newest_script(revision: SchemaRevision, metadata: MetaData) -> None:
    assert ScriptDirectory(str(revision.migrations)).get_current_head() == revision.revision
    assert metadata.tables


def test_an_upgrade_that_breaks_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    scripts = tmp_path / "migrations"
    shutil.copytree(ledger_schema.REVISION.migrations, scripts)
    (scripts / "versions" / "revision_9999.py").write_text(BROKEN)
    broken = replace(ledger_schema.REVISION, revision="9999", migrations=scripts)
    file = tmp_path / "ledger.sqlite"
    Database(file, ledger_schema.REVISION, write=True).close()
    with pytest.raises(RuntimeError, match="half way"):
        Database(file, broken, write=True)
    database = Database(file, ledger_schema.REVISION, write=True)
    assert "half" not in objects(database.reader)
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
