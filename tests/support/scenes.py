"""Scenes for tests: a catalogue of works with owners, and a ledger of generations valued by the real method."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.catalogue.claims_import import ImportedClaims, read_claims
from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.ids import OwnerId, generation_id, sha256_hex
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ImageFacts, NewPosting, StoredPosting
from gmvaluator.ledger.results import Posted
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.ledger.verification import replay
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import SAMPLE_PROFILE, sample_work
from gmvaluator.valuation.policy import Policy, load_policy

PAPER = load_policy("paper@1")
SEPTEMBER = datetime(2026, 9, 10, 12, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 20, 12, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 5, 12, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 3, 12, tzinfo=UTC)


def sha256_of(number: int) -> str:
    return sha256_hex(str(number).encode())


def work(number: int, owner: str | None, data_set: str = "paintings") -> NewWork:
    reference = None if owner is None else OwnerReference(owner, f"{owner.title()} <Artist>")
    return NewWork(
        sample_work(number), sha256_of(number), 8, 8, data_set, f"work-{number}", "", title=f"Work <{number}>",
        owner=reference,
    )  # fmt: skip


def record(place: DataLocation, *works: NewWork) -> None:
    with open_catalogue(place, write=True) as catalogue:
        catalogue.record(works)


def owner_named(place: DataLocation, manifest_id: str) -> OwnerId:
    with open_catalogue(place) as catalogue:
        return catalogue.owner_of_manifest_id(manifest_id)


def attribute(
    place: DataLocation,
    name: str,
    works: Sequence[int],
    at: datetime,
    quality: int = 1_000_000,
    book: Ledger | None = None,
    policy: Policy = PAPER,
) -> StoredPosting:
    """Post one generation to which `works` contributed, nearest first, with the rights of its time."""
    posting = valued_generation(place, name, works, at, quality, policy)
    if book is None:
        with open_ledger(place, write=True) as opened:
            return _posted(opened, posting)
    return _posted(book, posting)


def valued_generation(
    place: DataLocation,
    name: str,
    works: Sequence[int],
    at: datetime,
    quality: int = 1_000_000,
    policy: Policy = PAPER,
) -> NewPosting:
    """Return the posting that `attribute` posts."""
    valued = ValuedImage(
        "local", generation_id(name), at, ImageFacts(hashlib.sha256(name.encode()).hexdigest(), 64, 64, 1_000),
        "demo-1", "works", SAMPLE_PROFILE, quality, {},
    )  # fmt: skip
    candidates = [ScoredCandidate(sample_work(number), 1_000 * rank, 900_000) for rank, number in enumerate(works)]
    with open_catalogue(place) as catalogue:
        cards = catalogue.works([sample_work(number) for number in works], at)
    return build_posting(valued, policy, candidates, cards)


def _posted(book: Ledger, posting: NewPosting) -> StoredPosting:
    (outcome,) = book.post([posting])
    assert isinstance(outcome, Posted)
    return outcome.posting


def post_decisions(book: Ledger, new: Sequence[NewDecision]) -> list[StoredPosting]:
    """Post decisions as they are, whatever the ledger holds."""
    return book.decide(lambda transaction: transaction.post(new))


def import_rights(place: DataLocation, folder: Path, text: str, partial: bool = False) -> ImportedClaims:
    file = folder / "rights.csv"
    file.write_text(text, encoding="utf-8")
    rows = list(read_claims(file, "rights:test"))
    with open_catalogue(place, write=True) as catalogue:
        return catalogue.import_claims(rows, partial)


def balances(book: Ledger) -> dict[str, int]:
    """Return every account's balance in micro-credits, zeros left out."""
    page = book.balances(limit=1_000)
    return {balance.account: balance.balance_micros for balance in page.balances if balance.balance_micros}


def is_sound(book: Ledger) -> bool:
    """Replay every posting; return whether the ledger verifies and reconciles."""
    assert all(replay(posting).equal for posting in book.every_posting())
    return book.verify().ok and book.totals().reconciles
