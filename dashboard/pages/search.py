"""The search page for owners, works and generations, and the preview of a picture, which posts nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dashboard.figures.cards import picture
from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import share_text
from dashboard.web.access import may, names_for, reads_all
from dashboard.web.attributor_client import attributor_client
from dashboard.web.context import app_context, bounded_body, page, session
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.catalogue.search import candidate_owners, find_works, has_image, owners_by_name
from gmvaluator.errors import InvalidInput, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId, sha256_hex, training_image_id
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.ledger.lookup import find_posting, sequence_of

MAX_QUERY_CHARACTERS = 200
MAX_RESULTS = 20
"""Maximum number of owners, and of works, that a search shows."""

SHOWN = 12
"""Contributors that a preview shows."""


async def search(request: Request) -> Response:
    """Show the page with the results; redirect to a generation that the query names."""
    query = request.query_params.get("q", "").strip()
    if len(query) > MAX_QUERY_CHARACTERS:
        raise InvalidInput(f"a search has {MAX_QUERY_CHARACTERS} characters at most: shorten it")
    caller, context = session(request).caller, app_context(request)
    results = await asyncio.to_thread(_results, context.data, query, caller) if query else None
    if results is not None and results["sequence"] is not None:
        return RedirectResponse(f"/generations/{results['sequence']}", 303)
    previews = may(caller, "preview") and bool(context.settings.server)
    generators = await asyncio.to_thread(_generators, context.data) if previews else []
    return page(
        request, "search.html", title="Search", query=query, view=results, previews=previews, generators=generators
    )


async def preview(request: Request) -> Response:
    """Return the works that an image resembles. The body is the image; nothing is posted."""
    session(request).check_csrf(request.headers.get("x-csrf-token", ""))
    image = await bounded_body(request, MAX_IMAGE_BYTES)
    if not image:
        raise InvalidInput("the picture is empty: choose a JPEG, PNG or WebP file")
    model_version = request.query_params.get("model_version", "")
    caller = session(request).caller
    # Owners may preview here but not call the attributor: it is called in the dashboard's own name.
    client = attributor_client(request, own_name=caller.has(Role.OPERATOR, Role.GENERATOR, Role.EMBEDDER))
    data = app_context(request).data
    stages = await asyncio.to_thread(lambda: list(client.preview(image, model_version)))
    return JSONResponse(await asyncio.to_thread(_similar, data, caller, image, stages[-1]))


def _results(data: DataAccess, query: str, caller: Caller) -> dict[str, Any]:
    owner = caller.owner_id if caller.only_account else None
    return {
        "sequence": _generation(data, query, caller),
        "owners": find_owners(data, query, owner) if reads_all(caller) or owner else [],
        "works": _works(data, query, owner, caller) if reads_all(caller) or owner else [],
    }


def _generation(data: DataAccess, query: str, caller: Caller) -> int | None:
    """Return the sequence of a posting named by its generation's id, its number or an id's beginning, or None.

    An id comes before a number, as people search for the ids of their own systems; the page of a generation whose id is
    a number names the posting of that number.
    """
    identity = None if reads_all(caller) or caller.only_account else caller.generator_identity
    try:
        if caller.only_account:
            # An owner could otherwise guess the ids of others character by character.
            return sequence_of(data.ledger, query) or data.ledger.posting_of_generation(query).sequence
        return find_posting(data.ledger, query, identity).sequence
    except (NotFound, InvalidInput):
        return None


def _generators(data: DataAccess) -> list[str]:
    return [] if data.catalogue is None else [generator.model_version for generator in data.catalogue.generators()]


def find_owners(data: DataAccess, query: str, only: OwnerId | None) -> list[dict[str, str]]:
    """Return owners whose name or id matches. only: the one owner that the caller may find, or None for all."""
    if data.catalogue is None:
        return []
    if only is not None:
        ids = [only]
    else:
        # The connection is released before names are read: searches that held one while waiting for a second could
        # use up the pool and wait for each other.
        with data.catalogue.snapshot() as connection:
            ids = candidate_owners(connection, query)
    owners = owners_by_name(data.catalogue, ids, query, MAX_RESULTS)
    return [{"owner_id": str(owner), "name": name} for owner, name in owners]


def _works(data: DataAccess, query: str, only: OwnerId | None, caller: Caller) -> list[dict[str, Any]]:
    if data.catalogue is None:
        return []
    with data.catalogue.snapshot() as connection:
        works = find_works(connection, query, MAX_RESULTS, only)
    cards = data.cards(works)
    return [_work(data, work, cards[work], caller) for work in works]


def _work(data: DataAccess, work: TrainingImageId, card: Any, caller: Caller) -> dict[str, Any]:
    names = names_for(caller, {payee.account: payee.display_name for payee in card.beneficiaries})
    return {
        "work_id": str(work),
        "title": card.title or card.key or str(work),
        "artist": ", ".join(names.values()),
        "picture": picture(data, work),
    }


def _similar(data: DataAccess, caller: Caller, image: bytes, final: Any) -> dict[str, Any]:
    """Return the nearest contributors of the FINAL stage; for an owner only their own works, with their ranks."""
    ranked: Iterable[tuple[int, Any]] = enumerate(final.contributors, 1)
    if (account := caller.only_account) is not None:
        ranked = ((rank, row) for rank, row in ranked if _pays(row, account))
    return {
        "rows": [_similar_work(data, caller, rank, row) for rank, row in islice(ranked, SHOWN)],
        "contributors": len(final.contributors),
        "quality": f"{final.quality:.3f}",
        "policy": final.policy,
        "unattributed": share_text(final.unattributed_share),
        "indexed": _indexed(data, image),
        "only_own": caller.only_account is not None,
    }


def _pays(contributor: Any, account: str) -> bool:
    return any(payee.account == account for payee in contributor.payees)


def _similar_work(data: DataAccess, caller: Caller, rank: int, contributor: Any) -> dict[str, Any]:
    names = names_for(caller, {payee.account: payee.display_name or payee.account for payee in contributor.payees})
    return {
        "place": rank,
        "work_id": contributor.training_image_id,
        "title": contributor.title or contributor.key,
        "artist": ", ".join(names.values()),
        "distance": f"{contributor.perceptual_distance:.6f}",
        "share": share_text(contributor.share),
        "share_percent": round(100 * contributor.share, 4),
        "picture": picture(data, uuid.UUID(contributor.training_image_id)),
    }


def _indexed(data: DataAccess, image: bytes) -> str | None:
    """Return the id of the work with exactly these bytes; None if it is not in the catalogue."""
    if data.catalogue is None:
        return None
    sha256 = sha256_hex(image)
    with data.catalogue.snapshot() as connection:
        return str(training_image_id(sha256)) if has_image(connection, sha256) else None
