"""One training image: what it earned, by which images, and who is paid."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from dashboard.access import check_owner, may
from dashboard.desk import desk, page, session
from dashboard.feed import generated_picture, picture, work_title
from dashboard.sources import Sources
from dashboard.wording import amount_text, instant, millionths
from gmvaluator.auth import Caller
from gmvaluator.errors import Forbidden, InvalidInput, NotFound
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.earned import accounts_of_work, earned_by_work, postings_at

NEAREST = 12
DAYS = 60
_SHA256_CHARACTERS = 64


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
    return _file(sources.thumbnail(found))


async def generated_image(request: Request) -> Response:
    """A generated image's thumbnail, where they are kept."""
    sha256 = request.path_params["sha256"]
    if len(sha256) != _SHA256_CHARACTERS or not set(sha256) <= set("0123456789abcdef"):
        raise InvalidInput("a generated image is named by its SHA-256")
    return _file(desk(request).sources.generated_thumbnail(sha256))


def work_id(text: str) -> TrainingImageId:
    """A work's UUID from a path. Raises InvalidInput."""
    try:
        return TrainingImageId(uuid.UUID(text))
    except ValueError:
        raise InvalidInput("a work is named by a UUID, which owners' pages link to") from None


def _file(path: Any) -> Response:
    if not path.is_file():
        raise NotFound("no such picture is kept")
    return FileResponse(path, media_type="image/webp", headers={"cache-control": "private, max-age=86400"})


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
        earned = earned_by_work(connection, found, NEAREST)
        accounts = accounts_of_work(connection, found)
        postings = postings_at(connection, [use.sequence for use in earned.uses])
    card = sources.cards([found]).get(found)
    if not accounts and (card is None or not card.key):
        raise NotFound(f"there is no training image {found}")
    rights = [] if card is None else card.beneficiaries
    names = sources.names({*accounts, *(one.account for one in rights)})
    if caller.only_account is not None:
        names = {
            account: name if account == caller.only_account else "Another owner" for account, name in names.items()
        }
    distances = {
        posting.sequence: one.distance_millionths
        for posting in postings
        for one in posting.evidence.contributions
        if one.training_image_id == found
    }
    groups = {
        one.group for posting in postings for one in posting.evidence.contributions if one.training_image_id == found
    }
    copies = sorted(
        {
            one.training_image_id
            for posting in postings
            for one in posting.evidence.contributions
            if one.group is not None and one.group in groups and one.training_image_id != found
        }
    )
    copy_cards = sources.cards(copies)
    pictures = {one.sequence: generated_picture(sources, one.evidence.image.sha256) for one in postings}
    return {
        "work_id": str(found),
        "title": work_title(card, found),
        "key": card.key if card else "",
        "picture": picture(sources, found),
        "total": amount_text(sum(accounts.values())),
        "generations": f"{earned.generations:,}",
        "days": [[day, micros / 1_000_000] for day, micros in list(earned.by_day.items())[-DAYS:]],
        "rights": [{"name": names[one.account], "percent": f"{one.share_ppm / 10_000:.2f}"} for one in rights],
        "accounts": [{"name": names[account], "credits": amount_text(micros)} for account, micros in accounts.items()],
        "copies": [_copy(sources, one, work_title(copy_cards.get(one), one), caller) for one in copies],
        "uses": [
            {
                "sequence": use.sequence,
                "generated_at": instant(use.generated_at),
                "credits": amount_text(use.credit_micros),
                "distance": millionths(distances.get(use.sequence, 0)),
                "picture": None if caller.only_account else pictures.get(use.sequence),
            }
            for use in sorted(earned.uses, key=lambda use: distances.get(use.sequence, 0))
        ],
    }


def _copy(sources: Sources, one: TrainingImageId, title: str, caller: Caller) -> dict[str, Any]:
    """A near-copy; of another owner's work an owner learns only that there is one."""
    if caller.only_account is not None:
        return {"work_id": "", "title": "A near-copy", "picture": None}
    return {"work_id": str(one), "title": title, "picture": picture(sources, one)}
