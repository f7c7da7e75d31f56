"""What a generation id stands for: the same id may come again for the same thing only."""

from __future__ import annotations

import json
from typing import Any

from gmvaluator.errors import GenerationConflict
from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.records import NewPosting, StoredPosting


def check_fingerprint(stored: StoredPosting, image_sha256: str, model_version: str) -> None:
    """Raises GenerationConflict, naming the field that differs from what was posted."""
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


def check_repeat(stored: StoredPosting, again: NewPosting | NewDecision) -> None:
    """Raises GenerationConflict, naming what differs, unless `again` asks for what is stored under its key."""
    if isinstance(again, NewPosting):
        facts = again.header_facts
        check_fingerprint(stored, facts.image_sha256 or "", facts.model_version or "")
    elif stored.evidence_json != again.evidence_json:
        raise GenerationConflict(
            f"{again.decision_id} was posted before with another {_difference(stored, again)}: use a new id"
        )


def _difference(stored: StoredPosting, again: NewDecision) -> str:
    was, now = (_flat(json.loads(text)) for text in (stored.evidence_json, again.evidence_json))
    return next((name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)), "content")


def _flat(evidence: dict[str, Any]) -> dict[str, Any]:
    facts = evidence.pop("facts", {})
    return {**evidence, **facts}
