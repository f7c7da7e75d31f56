"""Identifiers of training images, generations and owners."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import NewType

from gmvaluator.errors import InvalidInput

TrainingImageId = NewType("TrainingImageId", uuid.UUID)
"""UUIDv5 of a training image's bytes, and its point id in the index. The same bytes have the same id everywhere."""

GenerationId = NewType("GenerationId", str)
"""The generation server's name for one output image, unique for each generator identity and never reused."""

OwnerId = NewType("OwnerId", uuid.UUID)
"""Random UUID of a rights holder; names and contacts refer to it and can be erased."""

WORK_NAMESPACE = uuid.UUID("6b1f4f0e-8d5b-5a0c-9b61-2f6f8f5b7c11")
"""Namespace of training image ids. Never change it: every training image would get another id."""

MAX_GENERATION_ID_CHARACTERS = 200
_GENERATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]*")


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def training_image_id(sha256: str) -> TrainingImageId:
    """Return the id of the image whose file has this SHA-256, 64 lower-case hex digits. Raises InvalidInput."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidInput(f"{sha256!r} is not a SHA-256: give 64 lower-case hex digits")
    return TrainingImageId(uuid.uuid5(WORK_NAMESPACE, sha256))


def new_owner_id() -> OwnerId:
    """Return a new random owner id."""
    return OwnerId(uuid.uuid4())


def generation_id(text: str) -> GenerationId:
    """Validate a generation id from outside. Raises InvalidInput.

    Allowed are 1-200 characters of A-Z a-z 0-9 . _ : / @ + = -, the first one alphanumeric.
    """
    if len(text) > MAX_GENERATION_ID_CHARACTERS or not _GENERATION_ID.fullmatch(text):
        raise InvalidInput(
            f"generation_id {text[:60]!r} is refused: use 1-{MAX_GENERATION_ID_CHARACTERS} characters of "
            "A-Z a-z 0-9 . _ : / @ + = - and begin with a letter or digit"
        )
    return GenerationId(text)
