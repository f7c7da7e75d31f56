"""The page of a training image: its earnings, the nearest generated images, its payees and near-duplicates."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.figures.cards import picture, picture_file, work_title
from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import amount_text, instant, millionths
from dashboard.figures.near_duplicates import MAX_MEMBERS
from dashboard.web.access import ANOTHER, check_owner, may, names_for
from dashboard.web.context import app_context, page, session
from gmvaluator.auth.roles import Caller
from gmvaluator.errors import Forbidden, InvalidInput, NotFound
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.page_queries import NearGeneration, accounts_of_work, nearest_generations, work_earnings
from gmvaluator.ports import WorkCard

NEAREST = 12
"""Nearest generated images that are shown."""

DAYS = 60
"""Days of the earnings that are shown."""


async def work(request: Request) -> Response:
    """Show the page; an owner may open only works that are theirs or that paid them."""
    context, caller = app_context(request), session(request).caller
    work = work_id(request.path_params["work"])
    figures = await asyncio.to_thread(_figures, context.data, work, caller)
    disputable = may(caller, "dispute") and bool(context.settings.server)
    return page(request, "work.html", title=figures["title"], view=figures, may_dispute=disputable)


async def work_picture(request: Request) -> Response:
    """Return a work's thumbnail."""
    data, caller = app_context(request).data, session(request).caller
    work = work_id(request.path_params["work"])
    if caller.only_account is not None and not await asyncio.to_thread(_concerns, data, work, caller):
        raise Forbidden("this work is another owner's: an owner sees only their own")
    return picture_file(data.thumbnail(work), max_age_s=86_400)


def work_id(text: str) -> TrainingImageId:
    """Parse a work's UUID from a path. Raises InvalidInput."""
    try:
        return TrainingImageId(uuid.UUID(text))
    except ValueError:
        raise InvalidInput("a work is named by a UUID, which owners' pages link to") from None


def _concerns(data: DataAccess, work: TrainingImageId, caller: Caller) -> bool:
    """Return whether the work is the owner's today, or has ever paid them."""
    card = data.cards([work]).get(work)
    if card is not None and any(payee.account == caller.only_account for payee in card.beneficiaries):
        return True
    with data.ledger.snapshot() as connection:
        return caller.only_account in accounts_of_work(connection, work)


def _figures(data: DataAccess, work: TrainingImageId, caller: Caller) -> dict[str, Any]:
    if caller.only_account is not None and not _concerns(data, work, caller):
        # The same error as on another owner's page.
        check_owner(caller, "another")
    with data.ledger.snapshot() as connection:
        earned = work_earnings(connection, work, 1)
        accounts = accounts_of_work(connection, work)
        nearest = nearest_generations(connection, work, NEAREST)
    card = data.cards([work]).get(work)
    if not accounts and not nearest.generations and (card is None or not card.key):
        raise NotFound(f"there is no training image {work}")
    rights = [] if card is None else card.beneficiaries
    names = names_for(caller, data.names({*accounts, *(payee.account for payee in rights)}))
    return {
        "work_id": str(work),
        "title": work_title(card, work),
        "key": card.key if card else "",
        "picture": picture(data, work),
        "total": amount_text(sum(accounts.values())),
        "generations": f"{earned.generation_count:,}",
        "days": [[day, micros / 1_000_000] for day, micros in list(earned.by_day.items())[-DAYS:]],
        "rights": [{"name": names[payee.account], "percent": f"{payee.share_ppm / 10_000:.2f}"} for payee in rights],
        "accounts": [{"name": names[account], "credits": amount_text(micros)} for account, micros in accounts.items()],
        "near_duplicates": _near_duplicates(data, work, caller),
        "nearest": [_near(data, generation, caller) for generation in nearest.generations],
        "all_looked_at": nearest.complete,
    }


def _near(data: DataAccess, generation: NearGeneration, caller: Caller) -> dict[str, Any]:
    visible = may(caller, "generated_picture") and data.generated_thumbnail(generation.image_sha256).is_file()
    return {
        "sequence": generation.sequence,
        "generated_at": instant(generation.generated_at),
        "credits": amount_text(generation.credit_micros),
        "distance": millionths(generation.distance_millionths),
        "picture": f"/pictures/generations/{generation.sequence}" if visible else None,
    }


def _near_duplicates(data: DataAccess, work: TrainingImageId, caller: Caller) -> dict[str, Any]:
    """Return the other works of the group. known: False if the work was not checked or the index is unavailable."""
    group = data.near_duplicates.lookup(work)
    shown = group.members[:MAX_MEMBERS]
    cards = data.cards(shown)
    return {
        "known": group.known,
        "more": len(group.members) > len(shown),
        "rows": [_near_duplicate(data, member, cards.get(member), caller) for member in shown],
    }


def _near_duplicate(data: DataAccess, work: TrainingImageId, card: WorkCard | None, caller: Caller) -> dict[str, Any]:
    """Return one near-duplicate; for an owner another owner's work is anonymous."""
    payees = () if card is None else card.beneficiaries
    if caller.only_account is not None and all(payee.account != caller.only_account for payee in payees):
        return {"work_id": "", "title": "A near-duplicate", "picture": None, "artist": ANOTHER}
    names = names_for(caller, {payee.account: payee.display_name for payee in payees})
    return {
        "work_id": str(work),
        "title": work_title(card, work),
        "picture": picture(data, work),
        "artist": ", ".join(names.values()) or "unknown",
    }
