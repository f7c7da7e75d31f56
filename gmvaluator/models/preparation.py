"""From an image to the inputs of a composed profile's models; needs no weights, and no torch of its own."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.errors import InvalidImage
from gmvaluator.models.parts.part import Part, Parts
from gmvaluator.ports import Prepared

Pixels = npt.NDArray[Any]

NOTHING: Pixels = np.empty(0, np.uint8)
"""Input of a model that is not there, or not asked."""


class Preparer(Protocol):
    """What makes one model's input of an image. Thread-safe."""

    @property
    def square_resize(self) -> tuple[int, str] | None:
        """(S, filter) if a square image is resized to S x S and nothing else is done to it; None if more is done."""

    def __call__(self, image: Image.Image) -> Pixels:
        """RGB image of any size to the input that the model's adapter states."""


class Preparation:
    """The three models' preparers. Where two would make the same pixels of an image, it is resized once."""

    def __init__(self, recall: Preparer, perceptual: Preparer | None, quality: Preparer | None) -> None:
        self._recall = recall
        self._perceptual = perceptual
        self._quality = quality
        self._shares_squares = perceptual is not None and _same(recall.square_resize, perceptual.square_resize)

    def query(self, image: Image.Image) -> Prepared:
        """RGB image to every model's input. Raises InvalidImage if it is not RGB."""
        vectors = self.work(image)
        return Prepared(vectors.recall, vectors.perceptual, self._quality(image) if self._quality else NOTHING)

    def work(self, image: Image.Image) -> Prepared:
        """RGB training image to the inputs of the models that make vectors. Raises InvalidImage."""
        if image.mode != "RGB":
            raise InvalidImage(f"an image of mode {image.mode} was given: decode it to RGB first")
        recall = self._recall(image)
        if self._perceptual is None:
            return Prepared(recall, NOTHING, NOTHING)
        shared = self._shares_squares and image.width == image.height
        return Prepared(recall, recall if shared else self._perceptual(image), NOTHING)


def preparation_of(parts: Parts) -> Preparation:
    """Import the preparers that the parts name, and put them together."""
    recall = _preparer(parts.recall)
    assert recall is not None
    return Preparation(recall, _preparer(parts.perceptual), _preparer(parts.quality))


def _preparer(part: Part) -> Preparer | None:
    if not part.preparer:
        return None
    preparer: Preparer = importlib.import_module(part.preparer).preparer(part)
    return preparer


def _same(one: tuple[int, str] | None, other: tuple[int, str] | None) -> bool:
    return one is not None and one == other
