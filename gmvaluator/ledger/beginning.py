"""Marks of a place that has a ledger, or had one: a lost ledger is never begun again in silence.

What shows that there was a ledger outlives it: the file `ledger.begun` in the data folder, and on PostgreSQL an empty
schema `ledger_begun`, for attributors whose data folder is read-only or their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, text

from gmvaluator.errors import MissingData, PreconditionFailed
from gmvaluator.files import create_once
from gmvaluator.ledger.schema import REVISION
from gmvaluator.ledger.writer import now_utc
from gmvaluator.storage.database import server_errors
from gmvaluator.storage.postgresql import reading_engine
from gmvaluator.storage.schema import stored_revision

BEGUN_FILE_NAME = "ledger.begun"
BEGUN_SCHEMA = "ledger_begun"

# The user of a hardened database may create schemas no more once they are there.
_MAY_RECORD = text("SELECT to_regnamespace(:schema) IS NULL AND has_database_privilege(current_database(), 'CREATE')")

_BEGUN = b"This folder has a ledger. If it is gone, restore it from a backup.\n"


@dataclass(frozen=True, slots=True)
class _Evidence:
    """present: there is a ledger. begun: there was one, and may still be."""

    present: bool
    begun: bool


def check_beginning(folder: Path, location: Path | str, create: bool, new: bool) -> bool:
    """Check that a ledger is at `location`, a SQLite file or the URL of PostgreSQL, or that one may be begun there.

    create: one may be begun where there never was any. new: one may be begun because the last is gone.

    Returns whether there is one. Raises MissingData if one is gone or none may be begun, and PreconditionFailed if
    `new` is given though there is one.
    """
    # What shows that there was a ledger is made after it, and so it is looked for first.
    begun = (folder / BEGUN_FILE_NAME).exists()
    evidence = _evidence_of_file(location) if isinstance(location, Path) else _evidence_on_server(location)
    if new and evidence.present:
        raise PreconditionFailed(f"there is a ledger of {folder} already: leave out --new-ledger")
    if new and isinstance(location, Path):
        _keep_log(location)
    if not (evidence.present or new):
        _check_absent(folder, isinstance(location, Path), begun or evidence.begun, create)
    return evidence.present


def _check_absent(folder: Path, on_file: bool, begun: bool, create: bool) -> None:
    """Raise MissingData if there was a ledger, or if none may be begun."""
    if begun:
        lost = "ledger.sqlite" if on_file else "schema ledger of PostgreSQL"
        raise MissingData(
            f"the ledger of {folder} is gone: restore {lost} from a backup, or begin another by "
            "`gmvaluator serve --new-ledger`; if the ledger is in another database, name it in DATABASE_URL"
        )
    if not create:
        where = folder if on_file else "schema ledger of PostgreSQL"
        raise MissingData(f"there is no ledger in {where}: `gmvaluator serve` begins one, or name the folder by --data")


def record_beginning(folder: Path, writer: Engine) -> None:
    """Record that there is a ledger, where that outlives it; cheap if it is recorded already."""
    if writer.dialect.name == "postgresql":
        with writer.begin() as connection:
            if connection.execute(_MAY_RECORD, {"schema": BEGUN_SCHEMA}).scalar():
                connection.exec_driver_sql(f"CREATE SCHEMA {BEGUN_SCHEMA}")
        if not os.access(folder, os.W_OK):
            return  # read-only, or none
    create_once(folder / BEGUN_FILE_NAME, _BEGUN)


def _evidence_of_file(file: Path) -> _Evidence:
    """An empty file is no ledger."""
    return _Evidence(file.is_file() and file.stat().st_size > 0, begun=False)


def _evidence_on_server(url: str) -> _Evidence:
    """Read both from one snapshot."""
    engine = reading_engine(url, REVISION.name)
    try:
        with server_errors(f"schema {REVISION.name} of PostgreSQL"), engine.connect() as connection:
            begun = connection.execute(text("SELECT to_regnamespace(:schema)"), {"schema": BEGUN_SCHEMA}).scalar()
            return _Evidence(stored_revision(connection) is not None, begun is not None)
    finally:
        engine.dispose()


def _keep_log(file: Path) -> None:
    """Rename the log of a ledger that is gone, which SQLite would remove, and with it what was committed last."""
    for ending in ("-wal", "-shm"):
        log = file.with_name(file.name + ending)
        if log.exists():
            log.rename(file.with_name(f"{file.name}-lost-{now_utc():%Y%m%dT%H%M%S.%fZ}{ending}"))
