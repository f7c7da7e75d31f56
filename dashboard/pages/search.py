"""Finding an owner, a work or a generation; and asking whose work a picture is like, which posts nothing."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dashboard.figures.cards import picture
from dashboard.figures.data import Sources
from dashboard.figures.formatting import share_text
from dashboard.web.access import may, names_for, reads_all
from dashboard.web.attributor_client import attributor_client
from dashboard.web.context import bounded_body, desk, page, session
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.catalogue.search import find_works, named_like, searched_owners, work_by_sha256
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId, sha256_hex, training_image_id
from gmvaluator.images import MAX_IMAGE_BYTES

MAX_QUERY_CHARACTERS = 200
FOUND = 20
SHOWN = 12


async def search(request: Request) -> Response:
    """The page, and what was found."""
    query = request.query_params.get("q", "").strip()
    if len(query) > MAX_QUERY_CHARACTERS:
        raise InvalidInput(f"a search has {MAX_QUERY_CHARACTERS} characters at most: shorten it")
    caller, sources = session(request).caller, desk(request).sources
    found = await asyncio.to_thread(_found, sources, query, caller) if query else None
    if found is not None and found["sequence"] is not None:
        return RedirectResponse(f"/generations/{found['sequence']}", 303)
    asks = may(caller, "preview") and bool(desk(request).settings.server)
    generators = await asyncio.to_thread(_generators, sources) if asks else []
    return page(request, "search.html", title="Search", query=query, found=found, asks=asks, generators=generators)


async def preview(request: Request) -> Response:
    """Whose work is this like? The body is the image; answers what its FINAL would be. Nothing is posted."""
    session(request).check_csrf(request.headers.get("x-csrf-token", ""))
    data = await bounded_body(request, MAX_IMAGE_BYTES)
    if not data:
        raise InvalidInput("the picture is empty: choose a JPEG, PNG or WebP file")
    model_version = request.query_params.get("model_version", "")
    caller = session(request).caller
    client = attributor_client(request, own_name=caller.has(Role.OPERATOR, Role.GENERATOR, Role.EMBEDDER))
    sources = desk(request).sources
    stages = await asyncio.to_thread(lambda: list(client.preview(data, model_version)))
    return JSONResponse(await asyncio.to_thread(_alike, sources, caller, data, stages[-1]))


def _found(sources: Sources, query: str, caller: Caller) -> dict[str, Any]:
    owner = caller.owner_id if caller.only_account else None
    return {
        "sequence": _generation(sources, query, caller),
        "owners": _owners(sources, query, owner) if reads_all(caller) or owner else [],
        "works": _works(sources, query, owner, caller) if reads_all(caller) or owner else [],
    }


def _generation(sources: Sources, query: str, caller: Caller) -> int | None:
    """A posting's sequence, by its number or its generation's id."""
    if query.isascii() and query.isdigit() and len(query) < 16:
        return int(query) if 1 <= int(query) <= sources.ledger.head().sequence else None
    identity = None if reads_all(caller) or caller.only_account else caller.generator_identity
    try:
        return sources.ledger.posting_of_generation(query, identity).sequence
    except (NotFound, InvalidInput):
        return None


def _generators(sources: Sources) -> list[str]:
    return [] if sources.catalogue is None else [one.model_version for one in sources.catalogue.generators()]


def _owners(sources: Sources, query: str, only: OwnerId | None) -> list[dict[str, str]]:
    """An owner finds themselves alone, however many others are named alike."""
    if sources.catalogue is None:
        return []
    if only is not None:
        ids = [only]
    else:
        with sources.catalogue.snapshot() as connection:
            ids = searched_owners(connection, query)
    return [{"owner_id": str(one), "name": name} for one, name in named_like(sources.catalogue, ids, query, FOUND)]


def _works(sources: Sources, query: str, only: OwnerId | None, caller: Caller) -> list[dict[str, Any]]:
    if sources.catalogue is None:
        return []
    with sources.catalogue.snapshot() as connection:
        found = find_works(connection, query, FOUND, only)
    cards = sources.cards(found)
    return [_work(sources, one, cards[one], caller) for one in found]


def _work(sources: Sources, one: TrainingImageId, card: Any, caller: Caller) -> dict[str, Any]:
    names = names_for(caller, {each.account: each.display_name for each in card.beneficiaries})
    return {
        "work_id": str(one),
        "title": card.title or card.key or str(one),
        "artist": ", ".join(names.values()),
        "picture": picture(sources, one),
    }


def _alike(sources: Sources, caller: Caller, data: bytes, final: Any) -> dict[str, Any]:
    """An owner is told of their own works, and how many of others' are nearer."""
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(final.contributors, 1):
        mine = caller.only_account is None or any(payee.account == caller.only_account for payee in one.payees)
        if mine and len(rows) < SHOWN:
            rows.append(
                {
                    "place": place,
                    "work_id": one.training_image_id,
                    "title": one.title or one.key,
                    "artist": ", ".join(
                        names_for(
                            caller, {payee.account: payee.display_name or payee.account for payee in one.payees}
                        ).values()
                    ),
                    "distance": f"{one.perceptual_distance:.6f}",
                    "share": share_text(one.share),
                    "share_percent": round(100 * one.share, 4),
                    "picture": picture(sources, uuid.UUID(one.training_image_id)),
                }
            )
    return {
        "rows": rows,
        "contributors": len(final.contributors),
        "quality": f"{final.quality:.3f}",
        "policy": final.policy,
        "nobody": share_text(final.unattributed_share),
        "indexed": _indexed(sources, data),
        "only_own": caller.only_account is not None,
    }


def _indexed(sources: Sources, data: bytes) -> str | None:
    """The work whose file this is, byte for byte; None if it is not in the catalogue."""
    if sources.catalogue is None:
        return None
    sha256 = sha256_hex(data)
    with sources.catalogue.snapshot() as connection:
        return str(training_image_id(sha256)) if work_by_sha256(connection, sha256) else None
