"""One posting: how a generated image's credit was divided, with everything that is needed to check it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dashboard.figures.cards import contributor, generated_picture, picture, picture_file, work_title
from dashboard.figures.data import Sources
from dashboard.figures.formatting import amount_text, instant, millionths, share_text, short_hash
from dashboard.figures.formula import formula, weights_of
from dashboard.web.access import ANOTHER, may, names_for, only_own, reads_all
from dashboard.web.context import desk, page, session
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.errors import Forbidden, InvalidInput, NotFound
from gmvaluator.ledger.explain import decision_explanation
from gmvaluator.ledger.page_queries import posting_at
from gmvaluator.ledger.records import ATTRIBUTION, Evidence, StoredPosting
from gmvaluator.ledger.verification import replay

STAGES = (
    ("Recalled", ("lookup_ms", "decode_ms", "queue_ms", "embed_ms", "recall_ms")),
    ("Re-ranked", ("rerank_ms",)),
    ("Final", ("quality_ms",)),
)
STAGE_ROWS = 5


async def generation(request: Request) -> Response:
    """The page of a posting, by its sequence."""
    caller = session(request).caller
    sources = desk(request).sources
    posting = await asyncio.to_thread(_posting, sources, request.path_params["sequence"])
    check_posting(caller, posting)
    if posting.header.kind != ATTRIBUTION:
        found = await asyncio.to_thread(_decision, sources, posting, caller)
        return page(request, "decision.html", title=f"Posting {posting.sequence}", found=found)
    found = await asyncio.to_thread(
        _explained, sources, posting, caller, disputes_open=bool(desk(request).settings.server)
    )
    return page(request, "generation.html", title=f"Generated image {posting.sequence}", found=found)


async def replayed(request: Request) -> Response:
    """The posting computed again from its evidence, as JSON."""
    sources = desk(request).sources
    posting = await asyncio.to_thread(_posting, sources, request.path_params["sequence"])
    caller = session(request).caller
    check_posting(caller, posting)
    if not reads_all(caller) and not caller.has(Role.GENERATOR, Role.EMBEDDER):
        raise Forbidden("the evidence names other owners' credits: ask an auditor to check it")
    again = await asyncio.to_thread(replay, posting)
    return JSONResponse(
        {
            **posting.header.as_dict(),
            "hash": posting.hash,
            "equal": again.equal,
            "entries": [
                {
                    "account": one.account,
                    "training_image_id": str(one.training_image_id),
                    "amount_micros": one.amount_micros,
                }
                for one in again.entries
            ],
            "evidence": json.loads(posting.evidence_json),
        }
    )


async def generated_image(request: Request) -> Response:
    """A generated image's thumbnail, where one is kept, for those who may see its posting."""
    sources = desk(request).sources
    posting = await asyncio.to_thread(_posting, sources, request.path_params["sequence"])
    check_posting(session(request).caller, posting)
    if posting.header.image_sha256 is None:
        raise NotFound("no image caused this posting")
    # Not for a day, as works' pictures: one that is erased has to be gone from browsers too.
    return picture_file(sources.generated_thumbnail(posting.header.image_sha256), max_age_s=300)


def check_posting(caller: Caller, posting: StoredPosting) -> None:
    """Raises Forbidden unless the posting is the caller's to see."""
    if reads_all(caller):
        return
    if caller.has(Role.GENERATOR, Role.EMBEDDER) and caller.generator_identity == posting.header.generator_identity:
        return
    if caller.only_account is not None and any(entry.account == caller.only_account for entry in posting.entries):
        return
    raise Forbidden("this posting is not yours to see")


def _posting(sources: Sources, text: str) -> StoredPosting:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InvalidInput("a posting is named by its number")
    with sources.ledger.snapshot() as connection:
        found = posting_at(connection, int(text))
    if found is None:
        raise NotFound(f"there is no posting {int(text)} yet")
    return found


def _explained(sources: Sources, posting: StoredPosting, caller: Caller, *, disputes_open: bool) -> dict[str, Any]:
    evidence = posting.evidence
    shown = [one.training_image_id for one in evidence.contributions]
    missed = [one.training_image_id for one in evidence.near_misses]
    cards = sources.cards({*shown, *missed})
    names = sources.names({payment.account for one in evidence.contributions for payment in one.payments})
    names = names_for(caller, names)
    rows = [contributor(sources, one, cards, names) for one in evidence.contributions]
    for row, weight in zip(rows, weights_of(evidence), strict=True):
        row["weight"] = weight
    near = [
        {
            "rank": one.rank,
            "work_id": str(one.training_image_id),
            "title": work_title(cards.get(one.training_image_id), one.training_image_id),
            "picture": picture(sources, one.training_image_id),
            "distance": millionths(one.distance_millionths),
        }
        for one in evidence.near_misses
    ]
    if only_own(caller):
        _hide_others(rows, near, str(caller.owner_id))
    return {
        **_facts(posting, evidence),
        "picture": generated_picture(sources, posting) if may(caller, "generated_picture") else None,
        "may_see": may(caller, "generated_picture"),
        "contributors": rows,
        "near_misses": near,
        "stages": _stages(evidence, rows),
        "formula": formula(evidence),
        "nearest": amount_text(evidence.contributions[0].credit_micros) if evidence.contributions else None,
        "equal": replay(posting).equal,
        "may_replay": caller.only_account is None,
        "may_dispute": caller.has(Role.OPERATOR, Role.FINANCE, Role.OWNER) and disputes_open,
    }


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
    """The three answers of the stream: what each knew, and when it came."""
    elapsed = 0.0
    by_similarity = sorted(rows, key=lambda row: -float(row["similarity"]))
    knew = (
        [(row, f"similarity {row['similarity'][:6]}") for row in by_similarity],
        [(row, f"distance {row['distance'][:6]}") for row in rows],
        [(row, f"{row['credits']} credits") for row in rows],
    )
    found = []
    for (name, timings), lines in zip(STAGES, knew, strict=True):
        elapsed += sum(float(evidence.timings_ms.get(timing, 0.0)) for timing in timings)
        found.append({"name": name, "ms": f"{elapsed:.0f}", "rows": lines[:STAGE_ROWS]})
    return found


def _hide_others(rows: list[dict[str, Any]], near: list[dict[str, Any]], owner: str) -> None:
    """An owner sees only their own: of others' works the figures that the formula needs, and nothing else."""
    for row in rows:
        if owner not in row["owners"]:
            row.update(title="A work", artist=ANOTHER, picture=None, work_id="", owners=[])
        row["owners"] = [one for one in row["owners"] if one == owner]
    for row in near:
        row.update(title="A work", picture=None, work_id="")


def _decision(sources: Sources, posting: StoredPosting, caller: Caller) -> dict[str, Any]:
    """An owner is told of their own entries, and why, as their statement does."""
    found = decision_explanation(posting)
    entries = found["entries"]
    if only_own(caller):
        entries = [entry for entry in entries if entry["account"] == caller.only_account]
    names = sources.names({entry["account"] for entry in entries})
    for entry in entries:
        entry["name"] = names[entry["account"]]
        entry["amount"] = amount_text(entry["amount_micros"])
    return {**found, "entries": entries, "decided_at": instant(posting.header.generated_at)}
