"""What is known of an image's quality, by its content: the same image again costs nothing, a half-scored goes on."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from gmvaluator.models.preparation import Pixels

MAX_IMAGES = 10_000
"""About 2 MB; what was asked for least recently is forgotten first."""


@dataclass(slots=True)
class Known:
    """Sums over the crops scored so far. key: hash of the pixels."""

    key: bytes
    weighted: float = 0.0
    weight: float = 0.0
    crops: int = 0

    def add(self, weighted: float, weight: float) -> None:
        """Count one more crop."""
        self.weighted += weighted
        self.weight += weight
        self.crops += 1


class QualityMemory:
    """`Known` by content, bounded. It belongs to one model of one precision: its numbers mean nothing to another."""

    def __init__(self, max_images: int = MAX_IMAGES) -> None:
        self._max_images = max_images
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def of(self, pixels: Pixels) -> Known:
        """What is known of the image with these pixels; to be added to."""
        key = content_hash(pixels)
        known = self._known.setdefault(key, Known(key))
        self._known.move_to_end(key)
        while len(self._known) > self._max_images:
            self._known.popitem(last=False)
        return known

    def forget(self, known: Known) -> None:
        """Begin anew when the image is asked for again."""
        self._known.pop(known.key, None)

    def __len__(self) -> int:
        return len(self._known)


def content_hash(pixels: Pixels) -> bytes:
    """SHA-256 of the shape and the pixels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
