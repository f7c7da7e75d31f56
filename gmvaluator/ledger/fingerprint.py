"""What a generation id stands for: the same id may come again for the same thing only."""

from __future__ import annotations

from gmvaluator.errors import GenerationConflict
from gmvaluator.ledger.records import StoredPosting


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
