"""Releases: credits in suspense or held are paid to the owners known now, by their rights at the generation's time.

Credits that a policy held back as too uncertain are released only on request: knowing the owners does not make the
attribution more certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection

from gmvaluator.accounts import HELD, SUSPENSE
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.current_amounts import (
    CurrentAmounts,
    disputed_amounts,
    held_back_works,
    postings_to_release,
    read_current_amounts,
    works_of,
)
from gmvaluator.ledger.decision import RELEASE, Decision, Links, NewDecision, checked_reason, decision_id
from gmvaluator.ledger.decision_effects import (
    AccountWork,
    add_amounts,
    decision_entries,
    negate_amounts,
    release_amounts,
)
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.ports import WorkCard
from gmvaluator.storage.schema import from_utc_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger

POSTINGS_PER_PAGE = 500
"""Postings that are examined, and released, together."""

WORKS_PER_QUERY = 5_000
"""Works in one query to the catalogue."""

_POTS = (SUSPENSE, HELD)
"""Accounts that a release takes from."""


class RightsAt(Protocol):
    """Rights as they are known now, valid at another time."""

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]: ...


@dataclass(frozen=True, slots=True)
class Release:
    """A release to be posted, with the generation whose posting it is about."""

    decision: NewDecision
    generation_id: str


def due_releases(
    connection: Connection,
    sequences: Sequence[int],
    rights: RightsAt,
    reason: str,
    decided_at: datetime,
    unsure: bool = False,
    works_per_query: int = WORKS_PER_QUERY,
) -> list[Release]:
    """Return the releases that are due among the postings `sequences`.

    unsure: release credits that a policy held back as too uncertain, too. Raises InvalidInput for a bad reason.
    """
    states = read_current_amounts(connection, sequences)
    disputed = disputed_amounts(connection) if states else {}
    held_back = {} if unsure else held_back_works(connection, sequences)
    catalogue = _BatchedRights(rights, works_per_query)
    return list(_releases(states, disputed, held_back, catalogue, checked_reason(reason), decided_at))


def _releases(
    states: Sequence[CurrentAmounts],
    disputed: Mapping[int, Mapping[AccountWork, int]],
    held_back: Mapping[int, frozenset[TrainingImageId]],
    rights: RightsAt,
    reason: str,
    decided_at: datetime,
) -> Iterator[Release]:
    # Rights depend on the generation's time: one query serves all generations of the same instant.
    by_time = sorted(states, key=lambda current: current.generated_at)
    for generated_at, group in groupby(by_time, key=lambda current: current.generated_at):
        simultaneous = list(group)
        cards = rights.works(_works_in_pots(simultaneous), from_utc_text(generated_at))
        for current in simultaneous:
            releasable = cards.keys() - held_back.get(current.sequence, frozenset())
            facts = _work_facts(current, disputed.get(current.sequence, {}), cards, releasable)
            works = [work for work in facts if _moves_credit(work)]
            if works:
                yield _release(current, works, reason, decided_at)


def _works_in_pots(states: Iterable[CurrentAmounts]) -> list[TrainingImageId]:
    """Return the works whose credit is partly in suspense or held."""
    return sorted({work for current in states for account, work in current.amounts if work and account in _POTS})


@dataclass(frozen=True, slots=True)
class _BatchedRights:
    """Rights of any number of works, queried in batches that every catalogue accepts."""

    rights: RightsAt
    works_per_query: int

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        cards: dict[TrainingImageId, WorkCard] = {}
        for start in range(0, len(ids), self.works_per_query):
            cards |= self.rights.works(ids[start : start + self.works_per_query], at)
        return cards


def _work_facts(
    current: CurrentAmounts,
    disputed: Mapping[AccountWork, int],
    cards: Mapping[TrainingImageId, WorkCard],
    releasable: Set[TrainingImageId],
) -> Iterator[dict[str, Any]]:
    """Yield the facts of each releasable work: its credit by account, without what disputes hold, and its rights."""
    undisputed = add_amounts(current.amounts, negate_amounts(disputed))
    for work in works_of([current]):
        if work not in releasable:
            continue
        have = {account: amount for (account, of_work), amount in undisputed.items() if of_work == work and amount > 0}
        rights = sorted((payee.account, payee.share_ppm) for payee in cards[work].beneficiaries)
        if have:
            yield {
                "training_image_id": str(work),
                "have": sorted([account, amount] for account, amount in have.items()),
                "rights": [list(right) for right in rights],
            }


def _moves_credit(work: Mapping[str, Any]) -> bool:
    return bool(release_amounts(dict(work["have"]), [(account, share) for account, share in work["rights"]]))


def _release(current: CurrentAmounts, works: list[dict[str, Any]], reason: str, decided_at: datetime) -> Release:
    revision = current.revision + 1
    facts = {"generated_at": current.generated_at, "works": works}
    decision = Decision(RELEASE, reason, facts, Links(about_sequence=current.sequence, revision=revision))
    release_id = decision_id(RELEASE, current.sequence, revision)
    return Release(NewDecision(release_id, decided_at, decision, decision_entries(decision)), current.generation_id)


def pages_to_release(book: Ledger) -> Iterator[list[int]]:
    """Yield pages of postings, ascending, whose credit is partly in suspense or held, as of each page's snapshot."""
    after = 0
    while True:
        with book.snapshot() as connection:
            sequences = postings_to_release(connection, after, POSTINGS_PER_PAGE)
        if sequences:
            yield sequences
        if len(sequences) < POSTINGS_PER_PAGE:
            return
        after = sequences[-1]


def release_all(
    book: Ledger,
    rights: RightsAt,
    reason: str,
    decided_at: datetime,
    dry_run: bool = False,
    unsure: bool = False,
    works_per_query: int = WORKS_PER_QUERY,
) -> Iterator[Release]:
    """Post every release that is due, a page at a time, and yield them. dry_run: yield them without posting.

    unsure: release credits that a policy held back as too uncertain, too.
    """

    def due(connection: Connection, sequences: Sequence[int]) -> list[Release]:
        return due_releases(connection, sequences, rights, reason, decided_at, unsure, works_per_query)

    def decide(transaction: LedgerTransaction, sequences: Sequence[int]) -> list[Release]:
        releases = due(transaction.connection, sequences)
        transaction.post([release.decision for release in releases])
        return releases

    for sequences in pages_to_release(book):
        if dry_run:
            with book.snapshot() as connection:
                yield from due(connection, sequences)
        else:
            yield from book.decide(partial(decide, sequences=sequences))
