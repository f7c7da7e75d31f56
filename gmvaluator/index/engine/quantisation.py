"""Names of the vector compressions, and what each one saves."""

from __future__ import annotations

PRODUCT = {f"pq-x{ratio}": ratio for ratio in (4, 8, 16, 32, 64)}
"""Product quantisation: each sub-vector is replaced by the nearest of 256 trained ones, one byte each."""

SCALAR = "scalar"
"""One signed byte a dimension."""

TURBO = {"turbo-4": 4, "turbo-2": 2}
"""Qdrant's TurboQuant, a rotation before rounding: bits a dimension."""

RATIOS: dict[str, int] = {**PRODUCT, SCALAR: 4, **{name: 32 // bits for name, bits in TURBO.items()}}
"""How many times smaller than float32 each makes a vector."""

CHOICES = ("pq-x16", "pq-x32", "pq-x64", SCALAR, *TURBO)
"""What a collection of ours may use; the first is the default."""
