"""Online backup of a SQLite database: one snapshot, taken while its writer goes on, checked before it is kept."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from gmvaluator.errors import Conflict, Failure, MissingData, PreconditionFailed


def back_up(file: Path, target: Path) -> int:
    """Copy the database `file` into the new file `target`; its size in bytes.

    The copy is one moment of the database, whole and durable when this returns; the writer is not stopped. Raises
    Conflict if `target` exists, MissingData if `file` does not, Failure if the copy is not sound.
    """
    if target.exists():
        raise Conflict(f"{target} exists: a backup never overwrites, name a new file")
    if not file.is_file():
        raise MissingData(f"there is no {file} to back up: name the data folder by --data")
    unfinished = target.with_name(target.name + ".unfinished")
    with _errors(file, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        _copy(file, unfinished)
        _make_durable(unfinished)
        unfinished.rename(target)
        _sync(target.parent)
    return target.stat().st_size


def _copy(file: Path, copy: Path) -> None:
    address = f"file:{quote(str(file.absolute()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        # All pages in one step: a reader's snapshot, which in WAL mode no writer has to wait for.
        source.backup(target, pages=-1)
        # One file, without a log beside it.
        target.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = target.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise Failure(f"the copy of {file} is not sound ({verdict}): check the disk, and the database")


def _make_durable(copy: Path) -> None:
    copy.chmod(0o600)
    _sync(copy)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors(file: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Failure(f"{file} cannot be backed up ({error}): check the disk") from error
    except OSError as error:
        raise PreconditionFailed(f"{target} cannot be written ({error.strerror}): name another file") from error
