"""Postings and times as arguments of the ledger's commands."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gmvaluator.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from gmvaluator.ledger.reader import LedgerReader
    from gmvaluator.ledger.records import StoredPosting


def named_posting(book: LedgerReader, text: str, identity: str | None = None) -> StoredPosting:
    """Return the posting that `text` names: an id, its beginning, a sequence, or the file that was attributed.

    Raises NotFound, or InvalidInput if several postings are meant.
    """
    from gmvaluator.ledger.lookup import find_posting

    try:
        return find_posting(book, text, identity)
    except NotFound:
        generation = _id_of_file(Path(text))
        if generation is None:
            raise
        return book.posting_of_generation(generation, identity)


def _id_of_file(path: Path) -> str | None:
    """Return the id that `gmvaluator attribute` gives to a file by default; None if there is no such file."""
    from gmvaluator.ids import sha256_hex
    from gmvaluator.images import MAX_IMAGE_BYTES

    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return f"sha256:{sha256_hex(file.read(MAX_IMAGE_BYTES + 1))}"
    except OSError:
        return None


def instant(option: str, text: str | None) -> datetime | None:
    """Return the time that an option names. Raises InvalidInput unless it has a zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise InvalidInput(f"{option} {text[:40]!r} is refused: give a time with its zone, 2026-11-01T12:00:00+00:00")
    return moment
