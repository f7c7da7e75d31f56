"""Releases: credits in suspense or held go to those who, as is known now, had the rights when the image was made.

What a policy held back as too unsure waits for somebody's decision: knowing the rights does not make it surer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
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
from gmvaluator.ledger.decision_effects import add_amounts, decision_entries, release_amounts
from gmvaluator.ledger.store import post_decisions
from gmvaluator.ports import WorkCard
from gmvaluator.storage.schema import from_utc_text

if TYPE_CHECKING:
    from gmvaluator.ledger.store import Ledger

PAGE = 500
"""Postings that are looked at, and released, together."""

_AT_ONCE = 5_000
"""Works in one question to the catalogue."""

_POTS = (SUSPENSE, HELD)


class RightsAt(Protocol):
    """Rights as they are known now, judged at another time."""

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]: ...


@dataclass(frozen=True, slots=True)
class Release:
    """One release to be posted, and the posting that it is about."""

    decision: NewDecision
    generation_id: str


def releases(
    connection: Connection, rights: RightsAt, reason: str, decided_at: datetime, after: int = 0, unsure: bool = False
) -> tuple[list[Release], int | None]:
    """Releases due among the next postings after `after`, and where to go on; None at the end.

    unsure: release what a policy held back as well.
    """
    sequences = postings_to_release(connection, after, PAGE)
    states = read_current_amounts(connection, sequences)
    disputed = disputed_amounts(connection) if states else {}
    kept = {} if unsure else held_back_works(connection, sequences)
    found = list(_due(states, disputed, kept, rights, checked_reason(reason), decided_at))
    return found, sequences[-1] if len(sequences) == PAGE else None


def _due(
    states: Sequence[CurrentAmounts],
    disputed: Mapping[int, Any],
    kept: Mapping[int, frozenset[TrainingImageId]],
    rights: RightsAt,
    reason: str,
    decided_at: datetime,
) -> Iterator[Release]:
    by_time = sorted(states, key=lambda state: state.generated_at)
    for generated_at, group in groupby(by_time, key=lambda state: state.generated_at):
        together = list(group)
        cards = _cards(rights, _waiting(together), from_utc_text(generated_at))
        for state in together:
            left = cards.keys() - kept.get(state.sequence, frozenset())
            works = [one for one in _works(state, disputed.get(state.sequence, {}), cards, left) if _moves(one)]
            if works:
                yield _release(state, works, reason, decided_at)


def _waiting(states: Iterable[CurrentAmounts]) -> list[TrainingImageId]:
    """Works of which suspense or held have something."""
    return sorted({work for state in states for account, work in state.amounts if work and account in _POTS})


def _cards(rights: RightsAt, works: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
    """The rights of any number of works, asked for in parts that every catalogue answers."""
    parts = (works[start : start + _AT_ONCE] for start in range(0, len(works), _AT_ONCE))
    return {work: card for part in parts for work, card in rights.works(part, at).items()}


def _works(
    state: CurrentAmounts,
    disputed: Mapping[Any, int],
    cards: Mapping[TrainingImageId, WorkCard],
    wanted: Set[TrainingImageId],
) -> Iterator[dict[str, Any]]:
    """Each wanted work's credit by account, less what disputes hold, and its rights."""
    free = add_amounts(state.amounts, {place: -amount for place, amount in disputed.items()})
    for work in (one for one in works_of([state]) if one in wanted):
        have = {account: amount for (account, one), amount in free.items() if one == work and amount > 0}
        rights = sorted((one.account, one.share_ppm) for one in cards[work].beneficiaries)
        if have:
            yield {
                "training_image_id": str(work),
                "have": sorted([account, amount] for account, amount in have.items()),
                "rights": [list(right) for right in rights],
            }


def _moves(work: Mapping[str, Any]) -> bool:
    return bool(release_amounts(dict(work["have"]), [(account, share) for account, share in work["rights"]]))


def _release(state: CurrentAmounts, works: list[dict[str, Any]], reason: str, decided_at: datetime) -> Release:
    revision = state.revision + 1
    facts = {"generated_at": state.generated_at, "works": works}
    decision = Decision(RELEASE, reason, facts, Links(about_sequence=state.sequence, revision=revision))
    new = NewDecision(decision_id(RELEASE, state.sequence, revision), decided_at, decision, decision_entries(decision))
    return Release(new, state.generation_id)


def release_all(
    book: Ledger,
    rights: RightsAt,
    reason: str,
    decided_at: datetime,
    dry_run: bool = False,
    unsure: bool = False,
) -> Iterator[Release]:
    """Post every release that is due, a page at a time, and yield those posted; `dry_run` posts nothing."""
    after: int | None = 0
    while after is not None:
        with book.snapshot() as connection:
            found, after = releases(connection, rights, reason, decided_at, after, unsure)
        if found and not dry_run:
            post_decisions(book, [one.decision for one in found])
        yield from found
