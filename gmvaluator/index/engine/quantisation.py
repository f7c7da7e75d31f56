"""Names and compression ratios of the vector quantisations."""

from __future__ import annotations

PRODUCT = {f"pq-x{ratio}": ratio for ratio in (4, 8, 16, 32, 64)}
"""Product quantisation by name, with its compression ratio relative to float32.

A vector is split into sub-vectors, each of which is replaced by the one-byte number of the nearest of 256 centroids;
`pq-x16` stores one byte for each sub-vector of 4 float32 numbers (16 bytes). The centroids are trained per segment.
"""

SCALAR = "scalar"
"""Scalar quantisation to one signed byte (int8) per dimension."""

TURBO = {"turbo-4": 4, "turbo-2": 2}
"""Qdrant's TurboQuant by name, with its bits per dimension: vectors are rotated before they are rounded."""

RATIOS: dict[str, int] = {**PRODUCT, SCALAR: 4, **{name: 32 // bits for name, bits in TURBO.items()}}
"""Compression ratio of each quantisation: the size of a float32 vector divided by the size of its code."""

CHOICES = ("pq-x16", "pq-x32", "pq-x64", SCALAR, *TURBO)
"""Quantisations that a collection of this product may use; the first is the default.

The engine also accepts the others of `RATIOS`, as a Qdrant server does.
"""
