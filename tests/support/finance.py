"""A ledger in the middle of its finance work, without a catalogue, and the decisions that people may make next."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.auth.signing import Signer
from gmvaluator.errors import GmvaluatorError
from gmvaluator.ids import OwnerId, TrainingImageId, generation_id
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.calendar import Period
from gmvaluator.ledger.decisions.dispute_holds import decide_dispute, hold, open_dispute
from gmvaluator.ledger.decisions.disputes import Scope, checked_award
from gmvaluator.ledger.decisions.release import release_all
from gmvaluator.ledger.decisions.reversal import reattribute, reverse
from gmvaluator.ledger.payouts.closing import close, payable_lines
from gmvaluator.ledger.payouts.payouts import pay
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ImageFacts, NewPosting
from gmvaluator.ledger.store import Ledger
from gmvaluator.ports import Beneficiary, WorkCard
from gmvaluator.testing.postings import SAMPLE_PROFILE, sample_owner, sample_work
from gmvaluator.valuation.policy import Policy, load_policy

AUG, SEP, OCT = Period(2026, 8), Period(2026, 9), Period(2026, 10)
NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)
TERMS = Terms("EUR", 2, 25_000_000, None, 0)
ADA, BEN, CLEO = sample_owner(1), sample_owner(2), sample_owner(3)

_PAPER = load_policy("paper@1")
_NEAREST = Policy.from_parameters({"policy": "nearest@1", "depth": 10, "k": 1, "temperature": "1"})


@dataclass
class KnownRights:
    """Rights by number of the work; a work without an owner is in suspense."""

    owners: dict[int, OwnerId]

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        by_work = {sample_work(number): owner for number, owner in self.owners.items()}
        return {work: _card(work, by_work.get(work)) for work in ids}


def _card(work: TrainingImageId, owner: OwnerId | None) -> WorkCard:
    account = "suspense" if owner is None else f"owner:{owner}"
    return WorkCard(work, str(work), "", (Beneficiary(account, owner, account, 1_000_000),))


BEFORE = KnownRights({1: ADA, 2: BEN})
NOW_KNOWN = KnownRights({1: ADA, 2: BEN, 3: CLEO})


def generation(name: str, works: Sequence[int], at: datetime, rights: KnownRights = BEFORE) -> NewPosting:
    """Return the posting of one credit to which `works` contributed, nearest first."""
    facts = ImageFacts(hashlib.sha256(name.encode()).hexdigest(), 64, 64, 1_000)
    valued = ValuedImage(
        "local", generation_id(name), at, facts, "demo-1", "works", SAMPLE_PROFILE, 1_000_000, {}
    )  # fmt: skip
    ids = [sample_work(number) for number in works]
    candidates = [ScoredCandidate(work, 1_000 * rank, 900_000) for rank, work in enumerate(ids)]
    return build_posting(valued, _PAPER, candidates, rights.works(ids, at))


def fill(book: Ledger) -> None:
    """Credit Ada and Ben in September and October, and a work whose owner is unknown."""
    september, october = datetime(2026, 9, 10, tzinfo=UTC), datetime(2026, 10, 20, tzinfo=UTC)
    works = {"s1": [1], "s2": [1, 2], "s3": [3], "o1": [1], "o2": [2, 1], "o3": [3]}
    book.post([generation(name, ids, september if name[0] == "s" else october) for name, ids in works.items()])


def fill_and_close(book: Ledger, keys: Path) -> None:
    """Fill a ledger, close its September, which is not paid yet, and open a dispute about one of its generations."""
    fill(book)
    close(book, SEP, TERMS, Signer(keys), None, NOW, confirmed_over=True)
    open_dispute(book, "case-1", Scope(None, 2), "mine", NOW)


Act = Callable[[Ledger, Path], object]


def _closing(period: Period) -> Act:
    def act(book: Ledger, keys: Path) -> object:
        closed = close(book, period, TERMS, Signer(keys), None, NOW, carry_disputes=True, confirmed_over=True)
        return "closed" if closed.checks else "closed before", payable_lines(closed.closing)

    return act


DECISIONS: dict[str, Act] = {
    "close August": _closing(AUG),
    "close September": _closing(SEP),
    "close October": _closing(OCT),
    "pay September": lambda book, _: [payout.status for payout in pay(book, SEP, "SEPA 1", NOW)],
    "open": lambda book, _: open_dispute(book, "case-2", Scope(sample_work(1), None), "not hers", NOW).held_micros,
    "hold": lambda book, _: hold(book, "case-1", NOW).held_micros,
    "award": lambda book, _: decide_dispute(
        book, "case-1", checked_award([(CLEO, 1_000_000)]), "shown by sketches", NOW
    ).as_dict()["status"],
    "reject": lambda book, _: decide_dispute(book, "case-1", None, "nothing was shown", NOW).as_dict()["status"],
    "release": lambda book, _: [
        str(release.decision.decision_id) for release in release_all(book, NOW_KNOWN, "known now", NOW)
    ],
    "reverse": lambda book, _: str(
        reverse(book, book.posting_of_generation("s1"), "a test image", NOW).header.generation_id
    ),
    "reattribute": lambda book, _: str(
        reattribute(book, book.posting_of_generation("o2"), _NEAREST, {}, "agreed", NOW).header.generation_id
    ),
}
"""What people may decide, by name; each returns what it reports."""


def outcome_of(act: Act, book: Ledger, keys: Path) -> object:
    """Return what a decision reports, or the name of the error by which it is refused."""
    try:
        return act(book, keys)
    except GmvaluatorError as error:
        return type(error).__name__
