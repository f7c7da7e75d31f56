"""Seeded postings for the ledger's benchmark, made by the real `build_posting`: 50 contributors each."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from gmvaluator.ids import GenerationId, OwnerId, TrainingImageId, generation_id, training_image_id
from gmvaluator.ledger.posting import ScoredCandidate, ValuedImage, build_posting
from gmvaluator.ledger.records import ISSUANCE, Entry, ImageFacts, NewPosting, owner_account
from gmvaluator.ports import Beneficiary, WorkCard
from gmvaluator.profile import ProfileIdentity
from gmvaluator.valuation.policy import load_policy

CONTRIBUTORS = 50
WORKS = 10_000
OWNERS = 1_000
TEMPLATES = 400
"""Images that differ in contributors and amounts; further ones repeat them under ids of their own."""

_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
_PROFILE = ProfileIdentity("bench", "recall", "perceptual", "quality", 512, 384, "fp32", {"backbone": "0" * 64})


def owner(number: int) -> OwnerId:
    """An owner; the same number is the same owner."""
    return OwnerId(uuid.UUID(int=random.Random(number).getrandbits(128), version=4))  # noqa: S311


def postings(count: int, first: int = 0) -> Iterator[NewPosting]:
    """Postings `first` to `first + count`, encoded as the pipeline hands them over."""
    templates = [_template(number) for number in range(min(count, TEMPLATES))]
    for number in range(first, first + count):
        posting = replace(templates[number % len(templates)], generation_id=GenerationId(f"image-{number}"))
        posting.encode()
        yield posting


def wide_postings(count: int, entries: int, owners: int) -> Iterator[NewPosting]:
    """Postings with `entries` lines each, dealt to `owners` owners in turn: many rows, quickly."""
    accounts = [owner_account(owner(number)) for number in range(owners)]
    evidence = _template(0).evidence
    works = [_work(number) for number in range(WORKS)]
    for number in range(count):
        lines = [
            Entry(accounts[(number * 7 + line) % owners], works[(number + line) % WORKS], 1 + (number + line) % 97)
            for line in range(entries - 1)
        ]
        issued = sum(line.amount_micros for line in lines)
        whole = (Entry(ISSUANCE, None, -issued), *lines)
        yield NewPosting("bench", generation_id(f"wide-{number}"), _AT, whole, replace(evidence, issued_micros=issued))


def _template(number: int) -> NewPosting:
    chosen = random.Random(number).sample(range(WORKS), CONTRIBUTORS)  # noqa: S311 - a benchmark, not a secret
    valued = ValuedImage(
        generator_identity="bench",
        generation_id=generation_id(f"template-{number}"),
        generated_at=_AT,
        image=ImageFacts(hashlib.sha256(str(number).encode()).hexdigest(), 512, 512, 40_000),
        model_version="bench-1",
        collection="works",
        profile=_PROFILE,
        quality_millionths=500_000 + number,
        timings_ms={"decode_ms": 2.5, "embed_ms": 7.25, "recall_ms": 1.125, "rerank_ms": 0.5, "quality_ms": 3.0},
    )
    candidates = [ScoredCandidate(_work(one), 4_000 * place, 900_000) for place, one in enumerate(chosen)]
    return build_posting(valued, load_policy("paper@1"), candidates, {_work(one): _card(one) for one in chosen})


def _work(number: int) -> TrainingImageId:
    return training_image_id(hashlib.sha256(str(number).encode()).hexdigest())


def _card(number: int) -> WorkCard:
    owner_id = owner(number % OWNERS)
    account = owner_account(owner_id)
    return WorkCard(_work(number), f"work-{number}", "", (Beneficiary(account, owner_id, account, 1_000_000),))
