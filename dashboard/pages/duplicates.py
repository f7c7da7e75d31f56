"""A work's near-copies, with pictures and owners: its group in the index."""

from __future__ import annotations

from typing import Any

from dashboard.access import ANOTHER, names_for
from dashboard.copies import MAX_MEMBERS
from dashboard.feed import picture, work_title
from dashboard.sources import Sources
from gmvaluator.auth.authenticator import Caller
from gmvaluator.ids import TrainingImageId
from gmvaluator.ports import WorkCard


def copies_told(sources: Sources, work: TrainingImageId, caller: Caller) -> dict[str, Any]:
    """What the work's page says of its group. known: whether somebody has looked for near-copies."""
    group = sources.copies.of(work)
    shown = group.members[:MAX_MEMBERS]
    cards = sources.cards(shown)
    return {
        "known": group.known,
        "more": len(group.members) > len(shown),
        "rows": [_copy(sources, one, cards.get(one), caller) for one in shown],
    }


def _copy(sources: Sources, one: TrainingImageId, card: WorkCard | None, caller: Caller) -> dict[str, Any]:
    """One near-copy; of another owner's work an owner learns only that there is one."""
    owners = () if card is None else card.beneficiaries
    if caller.only_account is not None and all(each.account != caller.only_account for each in owners):
        return {"work_id": "", "title": "A near-copy", "picture": None, "artist": ANOTHER}
    return {
        "work_id": str(one),
        "title": work_title(card, one),
        "picture": picture(sources, one),
        "artist": ", ".join(names_for(caller, {each.account: each.display_name for each in owners}).values())
        or "unknown",
    }
