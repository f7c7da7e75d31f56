"""One training image: what it earned, by which images, and who is paid.

A work's near-copies, with pictures and owners: its group in the index.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.figures.cards import picture, picture_file, work_title
from dashboard.figures.data import Sources
from dashboard.figures.formatting import amount_text, instant, millionths
from dashboard.figures.near_duplicates import MAX_MEMBERS
from dashboard.web.access import ANOTHER, check_owner, may, names_for
from dashboard.web.context import desk, page, session
from gmvaluator.auth.roles import Caller
from gmvaluator.errors import Forbidden, InvalidInput, NotFound
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.page_queries import NearGeneration, accounts_of_work, nearest_generations, work_earnings
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


NEAREST = 12
DAYS = 60


async def work(request: Request) -> Response:
    """The page of a work; an owner's only of works that are theirs, or paid them."""
    found = work_id(request.path_params["work"])
    caller = session(request).caller
    told = await asyncio.to_thread(_told, desk(request).sources, found, caller)
    disputable = may(caller, "dispute") and bool(desk(request).settings.server)
    return page(request, "work.html", title=told["title"], found=told, may_dispute=disputable)


async def work_picture(request: Request) -> Response:
    """A work's thumbnail."""
    found = work_id(request.path_params["work"])
    sources = desk(request).sources
    caller = session(request).caller
    if caller.only_account is not None and not await asyncio.to_thread(_theirs, sources, found, caller):
        raise Forbidden("this work is another owner's: an owner sees only their own")
    return picture_file(sources.thumbnail(found), max_age_s=86_400)


def work_id(text: str) -> TrainingImageId:
    """A work's UUID from a path. Raises InvalidInput."""
    try:
        return TrainingImageId(uuid.UUID(text))
    except ValueError:
        raise InvalidInput("a work is named by a UUID, which owners' pages link to") from None


def _theirs(sources: Sources, found: TrainingImageId, caller: Caller) -> bool:
    card = sources.cards([found]).get(found)
    if card is not None and any(one.account == caller.only_account for one in card.beneficiaries):
        return True
    with sources.ledger.snapshot() as connection:
        return caller.only_account in accounts_of_work(connection, found)


def _told(sources: Sources, found: TrainingImageId, caller: Caller) -> dict[str, Any]:
    if caller.only_account is not None and not _theirs(sources, found, caller):
        check_owner(caller, "another")
    with sources.ledger.snapshot() as connection:
        earned = work_earnings(connection, found, 1)
        accounts = accounts_of_work(connection, found)
        nearest = nearest_generations(connection, found, NEAREST)
    card = sources.cards([found]).get(found)
    if not accounts and not nearest.generations and (card is None or not card.key):
        raise NotFound(f"there is no training image {found}")
    rights = [] if card is None else card.beneficiaries
    names = names_for(caller, sources.names({*accounts, *(one.account for one in rights)}))
    return {
        "work_id": str(found),
        "title": work_title(card, found),
        "key": card.key if card else "",
        "picture": picture(sources, found),
        "total": amount_text(sum(accounts.values())),
        "generations": f"{earned.generation_count:,}",
        "days": [[day, micros / 1_000_000] for day, micros in list(earned.by_day.items())[-DAYS:]],
        "rights": [{"name": names[one.account], "percent": f"{one.share_ppm / 10_000:.2f}"} for one in rights],
        "accounts": [{"name": names[account], "credits": amount_text(micros)} for account, micros in accounts.items()],
        "copies": copies_told(sources, found, caller),
        "nearest": [_near(sources, one, caller) for one in nearest.generations],
        "all_looked_at": nearest.complete,
    }


def _near(sources: Sources, one: NearGeneration, caller: Caller) -> dict[str, Any]:
    kept = may(caller, "generated_picture") and sources.generated_thumbnail(one.image_sha256).is_file()
    return {
        "sequence": one.sequence,
        "generated_at": instant(one.generated_at),
        "credits": amount_text(one.credit_micros),
        "distance": millionths(one.distance_millionths),
        "picture": f"/pictures/generations/{one.sequence}" if kept else None,
    }
