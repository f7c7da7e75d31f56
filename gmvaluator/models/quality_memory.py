"""An LRU cache of quality scores by image content: a repeated image needs no second forward pass.

Partial scores are cached too, so that a later request continues where the last one ended.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from gmvaluator.models.preprocessing import Pixels

MAX_IMAGES = 10_000
"""Maximum number of images in the cache, about 2 MB; the least recently used is evicted first."""


@dataclass(slots=True)
class PartialScore:
    """Sums over the crops of an image scored so far. key: hash of the pixels."""

    key: bytes
    weighted: float = 0.0
    weight: float = 0.0
    crops: int = 0

    def add(self, weighted: float, weight: float) -> None:
        """Count one more crop: its quality times its weight, and the weight."""
        self.weighted += weighted
        self.weight += weight
        self.crops += 1


class QualityMemory:
    """An LRU cache of `PartialScore` by the hash of an image's pixels, for one model at one precision."""

    def __init__(self, max_images: int = MAX_IMAGES) -> None:
        self._max_images = max_images
        self._scores: OrderedDict[bytes, PartialScore] = OrderedDict()

    def lookup(self, pixels: Pixels) -> PartialScore:
        """Return the cached score of the image with these pixels, or a new empty one; the caller adds crops to it."""
        key = content_hash(pixels)
        score = self._scores.setdefault(key, PartialScore(key))
        self._scores.move_to_end(key)
        while len(self._scores) > self._max_images:
            self._scores.popitem(last=False)
        return score

    def forget(self, score: PartialScore) -> None:
        """Drop a score, so that the next request for its image starts from nothing."""
        self._scores.pop(score.key, None)

    def clear(self) -> None:
        """Forget every image."""
        self._scores.clear()

    def __len__(self) -> int:
        return len(self._scores)


def content_hash(pixels: Pixels) -> bytes:
    """Return the SHA-256 of the shape and the pixels."""
    # The shape is hashed too: the same bytes may be an image of another width.
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
