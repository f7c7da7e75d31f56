"""The hash chain: each posting's hash covers its header, its entries, its evidence and the hash before it.

hash_n = SHA-256(canonical JSON of header_n), where the header holds entries_digest, evidence_digest and hash_(n-1).
Fields that are null are left out of the header, so a column added later leaves the old hashes as they are.

The one way a value becomes bytes that are hashed: canonical JSON and its SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from gmvaluator.ids import TrainingImageId, sha256_hex

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces. Raises ValueError on NaN and infinity."""
    return _ENCODER.encode(value).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return sha256_hex(canonical_json(value))


GENESIS_HASH = "0" * 64
"""previous_hash of the first posting."""

HEADER_FORMAT = 1

_WORKS = 100_000
"""Works whose id is kept as text: the same ones come again and again."""


def entries_digest(lines: Sequence[tuple[str, TrainingImageId | None, int]]) -> str:
    """Return the digest of (account, work, micro-credits) lines in their order."""
    return digest([[account, _text(work) if work else None, amount] for account, work, amount in lines])


@lru_cache(maxsize=_WORKS)
def _text(work: TrainingImageId) -> str:
    return str(work)


def evidence_digest(evidence_json: bytes) -> str:
    """Digest of the evidence's bytes as stored, before compression."""
    return sha256_hex(evidence_json)


def header_hash(header: Mapping[str, Any]) -> str:
    """Return the chain's hash at the posting with this header, which maps column to value."""
    present = {name: value for name, value in header.items() if value is not None}
    return digest({"format": HEADER_FORMAT, **present})
