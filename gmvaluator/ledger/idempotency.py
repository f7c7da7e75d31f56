"""Idempotency checks: a generation id or decision id may be sent again only with the same content."""

from __future__ import annotations

import json
from typing import Any

from gmvaluator.errors import GenerationConflict
from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.records import NewPosting, StoredPosting


def check_fingerprint(stored: StoredPosting, image_sha256: str, model_version: str) -> None:
    """Check that a repeated generation id comes with the stored image and generator.

    Raises GenerationConflict, naming the field that differs from what was posted.
    """
    header = stored.header
    pairs = {
        "image_sha256": (header.image_sha256, image_sha256),
        "model_version": (header.model_version, model_version),
    }
    for field, (was, now) in pairs.items():
        if was != now:
            raise GenerationConflict(
                f"generation_id {header.generation_id} was posted before with another {field}: it was {was}, "
                f"now it is {now}; use a new generation_id"
            )


def check_repeat(stored: StoredPosting, repeated: NewPosting | NewDecision) -> None:
    """Check that `repeated` has the same content as the posting stored under its key.

    Raises GenerationConflict, naming what differs.
    """
    if isinstance(repeated, NewPosting):
        # The evidence itself may differ: timings change with every run, and an index may find other works by now.
        facts = repeated.header_facts
        check_fingerprint(stored, facts.image_sha256 or "", facts.model_version or "")
    elif stored.evidence_json != repeated.evidence_json:
        raise GenerationConflict(
            f"{repeated.decision_id} was posted before with another {_different_field(stored, repeated)}: use a new id"
        )


def _different_field(stored: StoredPosting, repeated: NewDecision) -> str:
    was, now = (_flat(json.loads(text)) for text in (stored.evidence_json, repeated.evidence_json))
    return next((name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)), "content")


def _flat(evidence: dict[str, Any]) -> dict[str, Any]:
    facts = evidence.pop("facts", {})
    return {**evidence, **facts}
