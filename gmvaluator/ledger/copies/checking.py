"""A backup is worth what can be read from it: its schema and its head."""

from __future__ import annotations

from pathlib import Path

from gmvaluator.database.revision import check_revision
from gmvaluator.database.sqlite import reading_engine
from gmvaluator.ledger.answers import Head
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.schema import REVISION


def check_copy(file: Path) -> Head:
    """The head of a copied ledger. Raises PreconditionFailed or LedgerCorrupt if it is none of this version's."""
    engine = reading_engine(file)
    try:
        check_revision(engine, REVISION)
        return LedgerReader(engine).head()
    finally:
        engine.dispose()
