"""Weight files are read once, checked against a pinned SHA-256, and only then parsed."""

from __future__ import annotations

from pathlib import Path

from gmvaluator.errors import MissingWeights
from gmvaluator.ids import sha256_hex


def read_pinned(path: Path, sha256: str, remedy: str) -> bytes:
    """Bytes of `path` if they are the pinned ones; the bytes checked are the bytes returned.

    remedy: what the reader of the error should do. Raises MissingWeights if the file is absent or differs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingWeights(f"weights {path} cannot be read ({error.strerror}): {remedy}") from error
    found = sha256_hex(data)
    if found != sha256:
        raise MissingWeights(f"weights {path} have SHA-256 {found}, not the pinned {sha256}: {remedy}")
    return data
