"""A profile put together from a recall, a perceptual and a quality model, each behind a small protocol.

A composed profile whose re-ranking compares pixels: its perceptual features are made when they are asked for.

Profile `paper`: the paper's models or their variants, each read from the models folder by its own adapter.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime, retry_in_halves, usable_device
from gmvaluator.models.known_models import COMPARES_PIXELS, specs_of
from gmvaluator.models.preprocessing import Pixels, Preparation, preparation_of
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity


class Embedder(Protocol):
    """A recall or perceptual model; one owner thread calls it."""

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """B inputs to (B, D) float32 of unit norm. Each row depends on its own input alone."""


class QualityModel(Protocol):
    """A no-reference quality model; one owner thread calls it."""

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """One forward pass toward the qualities of B inputs: in [0, 1], higher is better, None for what is not done.

        Calling it again with the inputs that are not done goes on where it was. Raises ModelFailed, naming the row.
        """


class ComposedModels:
    """`ports.Models` of up to three models.

    perceptual None: re-ranking by the recall vector. quality None: every image's quality is 1.
    """

    def __init__(
        self,
        identity: ProfileIdentity,
        preparation: Preparation,
        recall: Embedder,
        perceptual: Embedder | None,
        quality: QualityModel | None,
    ) -> None:
        self._identity = identity
        self._preparation = preparation
        self._recall = recall
        self._perceptual = perceptual
        self._quality = quality

    @property
    def identity(self) -> ProfileIdentity:
        return self._identity

    def prepare(self, image: Image.Image) -> Prepared:
        """RGB image to the input of every model. Raises InvalidImage if it is not RGB."""
        return self._preparation.query(image)

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """RGB training image to the input of its only view, the whole; its quality is not asked for."""
        return [self._preparation.work(image)]

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """B prepared images to vectors; quality is None where it is a model of its own.

        Raises ModelFailed, naming the row, if a number is not finite.
        """
        recall = self.recall_rows(inputs)
        perceptual = recall.copy() if self._perceptual is None else self.perceptual_rows(inputs)
        quality = np.ones(len(inputs), np.float32) if self._quality is None else None
        return Embeddings(recall, perceptual[:, np.newaxis], quality)

    def recall_rows(self, inputs: Sequence[Prepared]) -> Float32Array:
        """The recall model's part of `embed`."""
        return _checked("recall", self._recall.embed, [one.recall for one in inputs])

    def perceptual_rows(self, inputs: Sequence[Prepared]) -> Float32Array:
        """The perceptual model's part of `embed`, where there is one."""
        assert self._perceptual is not None
        return _checked("perceptual", self._perceptual.embed, [one.perceptual for one in inputs])

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """B training images of one view each to vectors. Raises ModelFailed, naming the row."""
        rows = self.embed([whole for (whole,) in inputs])
        return WorkEmbeddings(rows.recall, rows.perceptual)

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """B prepared images to (B,) float32 in [0, 1]. Raises ModelFailed, naming the row."""
        slices = [self.quality_slice(inputs)]
        while None in slices[-1]:
            slices.append(self.quality_slice(inputs))
        return np.array(slices[-1], np.float32)

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """See `ports.QueryModels`."""
        if self._quality is None:
            return [1.0] * len(inputs)
        if not inputs:
            raise ModelFailed("no images were given: ask the models with one at least")
        with _failures("quality"), torch.inference_mode():
            return self._quality.quality_slice([one.quality for one in inputs])


def _checked(name: str, model: Callable[[Sequence[Pixels]], Float32Array], inputs: Sequence[Pixels]) -> Float32Array:
    """One model's outputs, one finite row an input. Raises ModelFailed."""
    if not inputs:
        raise ModelFailed("no images were given: ask the models with one at least")
    with _failures(name), torch.inference_mode():
        rows = retry_in_halves(model, inputs, name)
    if len(rows) != len(inputs):
        raise ModelFailed(f"the {name} model answered {len(rows)} rows for {len(inputs)} images")
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if not finite.all():
        raise ModelFailed(f"row {int(np.argmin(finite))} of the batch gave a {name} that is not finite")
    return rows


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """The one place where torch's exceptions become ours."""
    try:
        yield
    except RuntimeError as error:
        raise ModelFailed(f"the {name} model failed: {error}") from error


class PixelComparingModels(ComposedModels):
    """As `ComposedModels`, but `embed`'s perceptual rows are features of any length and norm.

    Their squared distance is the perceptual distance. The index holds the recall vector in their place. An image of
    which only the features are wanted has an empty recall input; its recall row is zeros.
    """

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """See the class. Raises ModelFailed, naming the row."""
        wanted = [row for row, one in enumerate(inputs) if one.recall.size]
        recall = np.zeros((len(inputs), self.identity.recall_dim), np.float32)
        if wanted:
            recall[wanted] = self.recall_rows([inputs[row] for row in wanted])
        quality = np.ones(len(inputs), np.float32) if self._quality is None else None
        return Embeddings(recall, self.perceptual_rows(inputs), quality)

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Training images to recall vectors, twice. Raises ModelFailed, naming the row."""
        recall = self.recall_rows([whole for (whole,) in inputs])
        return WorkEmbeddings(recall, recall[:, np.newaxis].copy())


def load(choice: ProfileChoice, identity: ProfileIdentity, device: str, threads: int | None) -> ComposedModels:
    """See `registry.load_models`. Every file is checked against the identity's hash before it is parsed."""
    if threads is not None:
        torch.set_num_threads(threads)
    runtime = Runtime(usable_device(device), identity.precision)
    folder, hashes, parts = ModelsFolder(choice.models), dict(identity.weights), specs_of(choice)

    def made(part: ModelSpec) -> Any:
        """What the part's adapter makes; None for a part without one."""
        return importlib.import_module(part.adapter).load(part, folder, hashes, runtime) if part.adapter else None

    recall, perceptual, quality = made(parts.recall), made(parts.perceptual), made(parts.quality)
    kind = PixelComparingModels if parts.perceptual.model.startswith(COMPARES_PIXELS) else ComposedModels
    return kind(identity, preparation_of(parts), recall, perceptual, quality)


def input_maker(choice: ProfileChoice) -> Callable[[Image.Image], Prepared]:
    """See `registry.input_maker`."""
    return preparation_of(specs_of(choice)).query
