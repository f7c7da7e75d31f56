"""The outcome of the last check of the ledger, kept in the data folder so that metrics can tell it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.errors import PreconditionFailed
from gmvaluator.ledger.answers import Verification

FILE_NAME = "ledger-verification.json"
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Verified:
    """verified_at: seconds since 1970, UTC, when the check ended. ok: nothing was found. postings: how many it read."""

    verified_at: float
    ok: bool
    postings: int


def record_verification(folder: Path, found: Verification | None) -> None:
    """Keep an outcome, in one step, in place of the one before; None for a ledger that could not even be read.

    Raises PreconditionFailed if the folder is not writable.
    """
    ok, postings = (False, 0) if found is None else (found.ok, found.postings)
    kept = Verified(datetime.now(UTC).timestamp(), ok, postings)
    try:
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=FILE_NAME, delete=False, encoding="utf-8") as file:
            json.dump(asdict(kept), file)
        Path(file.name).chmod(0o644)
        os.replace(file.name, folder / FILE_NAME)  # noqa: PTH105 - in one step
    except OSError as error:
        raise PreconditionFailed(f"the outcome cannot be kept in {folder}: {error.strerror}") from error


def read_verification(folder: Path) -> Verified | None:
    """What was kept last; None if nothing was, or if it cannot be read."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return Verified(float(found["verified_at"]), bool(found["ok"]), int(found["postings"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
