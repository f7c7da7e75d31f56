"""Checksum of a point's vectors, kept in its payload, and the checks by which damage to stored vectors is found.

The checksum is a CRC-32 over the bytes of all vectors of a point: it finds what disks, memory and other programs do to
files, and is no protection against an attacker, who could write a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import numpy.typing as npt

CHECKSUM = "vectors_crc32"
"""Payload key of the checksum, an integer. Points that were written by earlier releases have none."""

CHECKED = ("gmvaluator-vectors", "checked")
"""Trailing metadata with which the embedded engine says that it checks the vectors that it compares."""

NORM_TOLERANCE = 1e-3
"""Largest accepted difference of a vector's norm from 1."""

_LITTLE_ENDIAN = np.dtype("<f4")

Rows = npt.NDArray[np.float32]


def vectors_checksum(vectors: Mapping[str, Rows]) -> int:
    """Return the checksum over float32 `vectors`, each (D,) or (V, D), in ascending order of their names."""
    checksum = 0
    for name in sorted(vectors):
        checksum = crc32(np.ascontiguousarray(vectors[name], _LITTLE_ENDIAN).data, checksum)
    return checksum


def damage(vectors: Mapping[str, Rows], checksum: object) -> str:
    """Return what is wrong with the stored `vectors` of a point; empty if nothing is.

    checksum: the value in the point's payload. Without one only the norms are compared, with 1.
    """
    if checksum is not None:
        return "" if vectors_checksum(vectors) == checksum else "they do not match their checksum"
    for name, rows in vectors.items():
        norms = np.sqrt(np.einsum("...d,...d->...", rows, rows, dtype=np.float64))
        if not (np.abs(norms - 1.0) <= NORM_TOLERANCE).all():
            return f"a {name} vector is not of unit norm"
    return ""
