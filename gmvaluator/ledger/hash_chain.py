"""The ledger's hash chain: canonical JSON, digests of entries and evidence, and the hash of a posting's header.

hash_n = SHA-256(canonical JSON of header_n), where the header holds entries_digest, evidence_digest and hash_(n-1).

The module hashes mappings and tuples and knows no record type. Stored hashes depend on every byte that it makes;
`tests/unit/ledger/test_hash_chain.py` pins them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from gmvaluator.ids import TrainingImageId, sha256_hex

# Sorted keys and fixed separators give one text per value. Letters are not escaped, so that evidence stays readable.
# NaN and infinity have no JSON form that other readers agree on.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

GENESIS_HASH = "0" * 64
"""previous_hash of the first posting."""

HEADER_FORMAT = 1

_WORKS = 100_000
"""Number of works whose id is cached as text."""


def canonical_json(value: Any) -> bytes:
    """Return UTF-8 JSON with sorted keys and no spaces. Raises ValueError on NaN and infinity."""
    return _ENCODER.encode(value).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return sha256_hex(canonical_json(value))


def entries_digest(lines: Sequence[tuple[str, TrainingImageId | None, int]]) -> str:
    """Return the digest of (account, work, micro-credits) lines in their order."""
    return digest([[account, _text(work) if work else None, amount] for account, work, amount in lines])


# Formatting a UUID costs more than hashing it, and the same works occur in many postings.
@lru_cache(maxsize=_WORKS)
def _text(work: TrainingImageId) -> str:
    return str(work)


def evidence_digest(evidence_json: bytes) -> str:
    """Return the digest of the evidence's bytes before compression."""
    return sha256_hex(evidence_json)


def header_hash(header: Mapping[str, Any]) -> str:
    """Return the chain's hash at the posting with this header, a mapping of column to value."""
    # Null fields are left out, so that a column added later does not change the hashes of older postings.
    present = {name: value for name, value in header.items() if value is not None}
    return digest({"format": HEADER_FORMAT, **present})
