"""How many points of a shard are quantised, counted in its files.

qdrant-edge's own `indexed_vectors_count` keeps counting points that were deleted or overwritten since.
"""

from __future__ import annotations

import json
from pathlib import Path


def quantised_points(shard: Path, vector: str) -> int:
    """Points in `shard` (flushed before) whose current `vector` has a product-quantised code."""
    return sum(_live_codes(segment, vector) for segment in sorted((shard / "segments").iterdir()))


def indexed_points(shard: Path) -> int:
    """Points in `shard` (flushed before) that stand in an indexed segment, where nothing is quantised."""
    return sum(_live_indexed(segment) for segment in sorted((shard / "segments").iterdir()))


def _live_codes(segment: Path, vector: str) -> int:
    described = segment / f"vector_storage-{vector}" / "quantized.meta.json"
    if not described.exists() or not described.with_name("quantized.data").exists():
        return 0
    count: int = json.loads(described.read_bytes())["vector_parameters"]["count"]
    return count - _deleted(segment)


def _live_indexed(segment: Path) -> int:
    versions = segment / "id_tracker.versions"
    return versions.stat().st_size // 8 - _deleted(segment) if versions.exists() else 0


def _deleted(segment: Path) -> int:
    return int.from_bytes((segment / "id_tracker.deleted").read_bytes(), "little").bit_count()
