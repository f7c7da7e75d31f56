"""The page of a posting: how a generated image's credit was divided, and the data to check it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dashboard.figures.cards import contributor, generated_picture, picture, picture_file, work_title
from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import amount_text, instant, millionths, share_text, short_hash
from dashboard.figures.formula import formula, weights_of
from dashboard.figures.visible import visible_works
from dashboard.web.access import ANOTHER, may, names_for, only_own, reads_all
from dashboard.web.context import app_context, page, session
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.errors import Forbidden, InvalidInput, NotFound
from gmvaluator.ledger.explain import decision_explanation
from gmvaluator.ledger.lookup import sequence_of
from gmvaluator.ledger.page_queries import posting_at
from gmvaluator.ledger.records import ATTRIBUTION, Contribution, Evidence, StoredPosting
from gmvaluator.ledger.verification import replay

STAGES = (
    ("Recalled", ("lookup_ms", "decode_ms", "queue_ms", "embed_ms", "recall_ms")),
    ("Re-ranked", ("rerank_ms",)),
    ("Final", ("quality_ms",)),
)
"""Stages of an attribution, with the timings that end in each."""

STAGE_ROWS = 5
"""Contributors that are shown per stage."""


async def generation(request: Request) -> Response:
    """Show the posting of a sequence: of a generated image, or of a decision."""
    context, caller = app_context(request), session(request).caller
    posting = await asyncio.to_thread(_posting, context.data, request.path_params["sequence"])
    check_posting(caller, posting)
    if posting.header.kind != ATTRIBUTION:
        decision = await asyncio.to_thread(_decision, context.data, posting, caller)
        return page(request, "decision.html", title=f"Posting {posting.sequence}", view=decision)
    explanation = await asyncio.to_thread(
        _explanation, context.data, posting, caller, disputable=bool(context.settings.server)
    )
    return page(request, "generation.html", title=f"Generated image {posting.sequence}", view=explanation)


async def replayed(request: Request) -> Response:
    """Return, as JSON, the evidence of a posting and the credits recomputed from it."""
    data = app_context(request).data
    posting = await asyncio.to_thread(_posting, data, request.path_params["sequence"])
    caller = session(request).caller
    check_posting(caller, posting)
    if not reads_all(caller) and not caller.has(Role.GENERATOR, Role.EMBEDDER):
        raise Forbidden("the evidence names other owners' credits: ask an auditor to check it")
    recomputed = await asyncio.to_thread(replay, posting)
    return JSONResponse(
        {
            **posting.header.as_dict(),
            "hash": posting.hash,
            "equal": recomputed.equal,
            "entries": [
                {
                    "account": entry.account,
                    "training_image_id": str(entry.training_image_id),
                    "amount_micros": entry.amount_micros,
                }
                for entry in recomputed.entries
            ],
            "evidence": json.loads(posting.evidence_json),
        }
    )


async def generated_image(request: Request) -> Response:
    """Return a generated image's thumbnail, for callers who may see its posting."""
    data = app_context(request).data
    posting = await asyncio.to_thread(_posting, data, request.path_params["sequence"])
    check_posting(session(request).caller, posting)
    if posting.header.image_sha256 is None:
        raise NotFound("no image caused this posting")
    # Cached for minutes, not for a day as pictures of works are: one that is erased has to leave browsers soon.
    return picture_file(data.generated_thumbnail(posting.header.image_sha256), max_age_s=300)


def check_posting(caller: Caller, posting: StoredPosting) -> None:
    """Raise Forbidden unless the caller may see the posting."""
    if reads_all(caller):
        return
    if caller.has(Role.GENERATOR, Role.EMBEDDER) and caller.generator_identity == posting.header.generator_identity:
        return
    if caller.only_account is not None and any(entry.account == caller.only_account for entry in posting.entries):
        return
    raise Forbidden("this posting is not yours to see")


def _posting(data: DataAccess, text: str) -> StoredPosting:
    """Read the posting of a sequence from a path. Raises InvalidInput, NotFound."""
    # Bounded, as a larger number does not fit into the database's integers.
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InvalidInput("a posting is named by its number")
    with data.ledger.snapshot() as connection:
        posting = posting_at(connection, int(text))
    if posting is None:
        raise NotFound(f"there is no posting {int(text)} yet")
    return posting


def _same_number(data: DataAccess, posting: StoredPosting) -> int | None:
    """Return the sequence that the generation's id is the number of, if that is another posting, or None."""
    sequence = sequence_of(data.ledger, posting.header.generation_id)
    return None if sequence == posting.sequence else sequence


def _explanation(data: DataAccess, posting: StoredPosting, caller: Caller, *, disputable: bool) -> dict[str, Any]:
    evidence = posting.evidence
    contributions, near_misses = evidence.contributions, evidence.near_misses
    cards = data.cards(
        {*(row.training_image_id for row in contributions), *(miss.training_image_id for miss in near_misses)}
    )
    names = names_for(caller, data.names({payment.account for row in contributions for payment in row.payments}))
    rows = [contributor(data, contribution, cards, names) for contribution in contributions]
    for row, weight in zip(rows, weights_of(evidence), strict=True):
        row.update(weight=weight, visible=None, seen=None)
    near = [
        {
            "rank": miss.rank,
            "work_id": str(miss.training_image_id),
            "title": work_title(cards.get(miss.training_image_id), miss.training_image_id),
            "picture": picture(data, miss.training_image_id),
            "distance": millionths(miss.distance_millionths),
        }
        for miss in near_misses
    ]
    if only_own(caller):
        _hide_others(rows, near, str(caller.owner_id))
    picture_url = generated_picture(data, posting) if may(caller, "generated_picture") else None
    thumbnails = [data.thumbnail(contribution.training_image_id) for contribution in contributions]
    return {
        **_facts(posting, evidence),
        "same_number": _same_number(data, posting),
        "picture": picture_url,
        "seen": visible_works(evidence, rows, thumbnails, picture_url),
        "lead": _lead(evidence, rows),
        "may_see": may(caller, "generated_picture"),
        "contributors": rows,
        "near_misses": near,
        "stages": _stages(evidence, rows),
        "formula": formula(evidence),
        "in_parts": evidence.content is not None,
        "first": _posted_for_first(contributions),
        "equal": replay(posting).equal,
        "may_replay": caller.only_account is None,
        "may_dispute": caller.has(Role.OPERATOR, Role.FINANCE, Role.OWNER) and disputable,
    }


def _posted_for_first(contributions: Sequence[Contribution]) -> dict[str, Any] | None:
    """Return the credit that the formula's last step arrives at; near-duplicates that are valued as one share it."""
    first = [contribution for contribution in contributions if contribution.rank == 1]
    if not first:
        return None
    return {"credits": amount_text(sum(row.credit_micros for row in first)), "works": len(first)}


def _lead(evidence: Evidence, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row to name first: of the largest share under a policy that counts parts, else of the nearest work."""
    if not rows or evidence.content is None:
        return rows[0] if rows else None
    shares = [contribution.share for contribution in evidence.contributions]
    return rows[shares.index(max(shares))]


def _facts(posting: StoredPosting, evidence: Evidence) -> dict[str, Any]:
    header, image = posting.header, evidence.image
    policy = {name: value for name, value in evidence.policy.items() if name not in ("policy", "profile")}
    return {
        "sequence": posting.sequence,
        "generation_id": header.generation_id,
        "hash": posting.hash,
        "model_version": evidence.model_version,
        "generator_identity": header.generator_identity,
        "generated_at": instant(header.generated_at),
        "posted_at": instant(header.posted_at),
        "image": f"{image.width} × {image.height}, {image.size_bytes:,} bytes",
        "image_sha256": image.sha256,
        "policy": evidence.policy["policy"],
        "policy_settings": json.dumps(policy, ensure_ascii=False),
        "profile": f"{evidence.profile} {short_hash(evidence.profile_hash)}",
        "weights": [f"{role} {short_hash(sha256)}" for role, sha256 in sorted(evidence.weights.items())],
        "quality": millionths(evidence.quality_millionths),
        "issued": amount_text(evidence.issued_micros),
        "unattributed": amount_text(evidence.unattributed_micros),
        "unattributed_share": share_text(evidence.unattributed_share),
        "unattributed_percent": round(100 * evidence.unattributed_share, 4),
    }


def _stages(evidence: Evidence, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the three stages of the stream: the figures known at each, and when it was sent."""
    elapsed = 0.0
    by_similarity = sorted(rows, key=lambda row: -float(row["similarity"]))
    known = (
        [(row, f"similarity {row['similarity'][:6]}") for row in by_similarity],
        [(row, f"distance {row['distance'][:6]}") for row in rows],
        [(row, f"{row['credits']} credits") for row in rows],
    )
    stages = []
    for (name, timings), lines in zip(STAGES, known, strict=True):
        elapsed += sum(float(evidence.timings_ms.get(timing, 0.0)) for timing in timings)
        stages.append({"name": name, "ms": f"{elapsed:.0f}", "rows": lines[:STAGE_ROWS]})
    return stages


def _hide_others(rows: list[dict[str, Any]], near: list[dict[str, Any]], owner: str) -> None:
    """Remove everything of other owners' works except for the figures that the formula needs."""
    for row in rows:
        if owner not in row["owners"]:
            row.update(title="A work", artist=ANOTHER, picture=None, work_id="", owners=[])
        row["owners"] = [payee for payee in row["owners"] if payee == owner]
    for row in near:
        row.update(title="A work", picture=None, work_id="")


def _decision(data: DataAccess, posting: StoredPosting, caller: Caller) -> dict[str, Any]:
    """Return a decision and its entries; for an owner only their own entries, as on their statement."""
    decision = decision_explanation(posting)
    entries = decision["entries"]
    if only_own(caller):
        entries = [entry for entry in entries if entry["account"] == caller.only_account]
    names = data.names({entry["account"] for entry in entries})
    for entry in entries:
        entry["name"] = names[entry["account"]]
        entry["amount"] = amount_text(entry["amount_micros"])
    return {**decision, "entries": entries, "decided_at": instant(posting.header.generated_at)}
