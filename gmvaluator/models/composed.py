"""Profile `paper`: models composed of a recall, a perceptual and a quality model, each behind a small protocol.

The operator's choice names the three (`known_models.specs_of`); each family's module loads its own from the models
folder. Where re-ranking compares pixels, perceptual features are computed for each request, not stored in the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime, retry_in_halves, usable_device
from gmvaluator.models.known_models import COMPARES_PIXELS, specs_of
from gmvaluator.models.preprocessing import Pixels, Preparation, preparation_of
from gmvaluator.models.specs import Family, ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Embeddings, Float32Array, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity


class Embedder(Protocol):
    """A recall or perceptual model; one owner thread calls it."""

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        """Embed B inputs as (B, D) float32 of unit norm. Each row depends on its own input alone."""


class QualityModel(Protocol):
    """A no-reference quality model; one owner thread calls it."""

    def quality_slice(self, inputs: Sequence[Pixels]) -> list[float | None]:
        """Run one forward pass toward the qualities of B inputs: in [0, 1], higher is better, None if not complete.

        A further call with the incomplete inputs continues where this one ended. Raises ModelFailed, naming the row.
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

    def prepare(self, image: Image.Image, parts: bool = True) -> Prepared:
        """Preprocess an RGB image for every model; see `ports.QueryModels`. Raises InvalidImage if it is not RGB."""
        return self._preparation.query(image, parts)

    def prepare_work(self, image: Image.Image) -> list[Prepared]:
        """Preprocess an RGB training image as one view, the whole image, for the embedding models alone."""
        return [self._preparation.described_work(image)]

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B prepared images; quality is None where it is a model of its own.

        Raises ModelFailed, naming the row, if a number is not finite.
        """
        recall = self.recall_rows(inputs)
        perceptual = recall.copy() if self._perceptual is None else self.perceptual_rows(inputs)
        quality = np.ones(len(inputs), np.float32) if self._quality is None else None
        return Embeddings(recall, perceptual[:, np.newaxis], quality, self.window_rows(inputs))

    def window_rows(self, inputs: Sequence[Prepared]) -> list[Float32Array]:
        """Embed the windows of each image by the recall model: (W, D), or (0, D) for an image prepared without."""
        none = np.empty((0, self.identity.recall_dim), np.float32)
        return [
            none
            if prepared.windows is None
            else _checked("recall", self._recall.embed, self._preparation.windows(prepared.windows), row)
            for row, prepared in enumerate(inputs)
        ]

    def recall_rows(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Run the recall model alone: (B, D) float32."""
        return _checked("recall", self._recall.embed, [prepared.recall for prepared in inputs])

    def perceptual_rows(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Run the perceptual model alone, of a profile that has one: (B, D) float32."""
        assert self._perceptual is not None
        return _checked("perceptual", self._perceptual.embed, [prepared.perceptual for prepared in inputs])

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Embed B training images of one view each. Raises ModelFailed, naming the row."""
        rows = self.embed([whole for (whole,) in inputs])
        return WorkEmbeddings(rows.recall, rows.perceptual)

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Score B prepared images: (B,) float32 in [0, 1]. Raises ModelFailed, naming the row."""
        qualities = self.quality_slice(inputs)
        while None in qualities:
            qualities = self.quality_slice(inputs)
        return np.array(qualities, np.float32)

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """Implement `ports.QueryModels`."""
        if self._quality is None:
            return [1.0] * len(inputs)
        if not inputs:
            raise ModelFailed("no images were given: ask the models with one at least")
        with _translated("quality"), torch.inference_mode():
            return self._quality.quality_slice([prepared.quality for prepared in inputs])


def _checked(
    name: str, model: Callable[[Sequence[Pixels]], Float32Array], inputs: Sequence[Pixels], row: int | None = None
) -> Float32Array:
    """Run one model and check that it returns one finite row an input. Raises ModelFailed, naming the image's row.

    row: of the image whose windows the inputs are; None if each input is an image.
    """
    if not inputs:
        raise ModelFailed("no images were given: ask the models with one at least")
    with _translated(name), torch.inference_mode():
        rows = retry_in_halves(model, inputs, name)
    if len(rows) != len(inputs):
        raise ModelFailed(f"the {name} model answered {len(rows)} rows for {len(inputs)} images")
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if not finite.all():
        named = int(np.argmin(finite)) if row is None else row
        raise ModelFailed(f"row {named} of the batch gave a {name} that is not finite")
    return rows


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Translate torch's exceptions into ModelFailed."""
    try:
        yield
    except RuntimeError as error:
        raise ModelFailed(f"the {name} model failed: {error}") from error


class PixelComparingModels(ComposedModels):
    """`ComposedModels` whose perceptual rows are features of any length and norm, too large for an index.

    Their squared distance is the perceptual distance. The index holds the recall vector in their place. An image of
    which only the features are needed has an empty recall input; its recall row is zeros.
    """

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B prepared images; see the class. Raises ModelFailed, naming the row."""
        with_recall = [row for row, prepared in enumerate(inputs) if prepared.recall.size]
        recall = np.zeros((len(inputs), self.identity.recall_dim), np.float32)
        if with_recall:
            recall[with_recall] = self.recall_rows([inputs[row] for row in with_recall])
        quality = np.ones(len(inputs), np.float32) if self._quality is None else None
        return Embeddings(recall, self.perceptual_rows(inputs), quality, self.window_rows(inputs))

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Embed training images: the recall vector stands for the perceptual one. Raises ModelFailed."""
        recall = self.recall_rows([whole for (whole,) in inputs])
        return WorkEmbeddings(recall, recall[:, np.newaxis].copy())


def load(choice: ProfileChoice, identity: ProfileIdentity, device: str, threads: int | None) -> ComposedModels:
    """Load the models of `choice`; see `profiles.load_models`.

    Every file is checked against the identity's hash before it is parsed.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    runtime = Runtime(usable_device(device), identity.precision)
    folder, hashes, specs = ModelsFolder(choice.models), dict(identity.weights), specs_of(choice)
    recall = _load_model(_EMBEDDERS, specs.recall, folder, hashes, runtime)
    assert recall is not None
    perceptual = _load_model(_EMBEDDERS, specs.perceptual, folder, hashes, runtime)
    quality = _load_model(_QUALITY_MODELS, specs.quality, folder, hashes, runtime)
    kind = PixelComparingModels if specs.perceptual.model.startswith(COMPARES_PIXELS) else ComposedModels
    return kind(identity, preparation_of(specs), recall, perceptual, quality)


Model = TypeVar("Model")
Model_co = TypeVar("Model_co", covariant=True)


class Loader(Protocol[Model_co]):
    """The function `load` of a model family, which loads one model."""

    def __call__(self, spec: ModelSpec, folder: ModelsFolder, hashes: Mapping[str, str], runtime: Runtime) -> Model_co:
        """Load the model of `spec` from `folder` onto the runtime's device; hashes: SHA-256 by the files' roles.

        Raises MissingWeights if a file is absent, has another hash, or does not fit the architecture.
        """


# Each function imports its family's module when it is called, because each module imports a package of its own (up to
# seconds of processor time) that the other families do without.


def _openclip() -> Loader[Embedder]:
    from gmvaluator.models.openclip import load

    return load


def _vgg16() -> Loader[Embedder]:
    from gmvaluator.models.vgg16 import load

    return load


def _dreamsim() -> Loader[Embedder]:
    from gmvaluator.models.dreamsim import load

    return load


def _lpips() -> Loader[Embedder]:
    from gmvaluator.models.lpips import load

    return load


def _maniqa() -> Loader[QualityModel]:
    from gmvaluator.models.maniqa import load

    return load


def _pyiqa() -> Loader[QualityModel]:
    from gmvaluator.models.pyiqa_metric import load

    return load


def _lite_quality() -> Loader[QualityModel]:
    from gmvaluator.models.lite import load_lite_quality

    return load_lite_quality


_EMBEDDERS: dict[Family, Callable[[], Loader[Embedder]]] = {
    "openclip": _openclip,
    "vgg16": _vgg16,
    "dreamsim": _dreamsim,
    "lpips": _lpips,
}
_QUALITY_MODELS: dict[Family, Callable[[], Loader[QualityModel]]] = {
    "maniqa": _maniqa,
    "pyiqa": _pyiqa,
    "lite": _lite_quality,
}


def _load_model(
    loaders: Mapping[Family, Callable[[], Loader[Model]]],
    spec: ModelSpec,
    folder: ModelsFolder,
    hashes: Mapping[str, str],
    runtime: Runtime,
) -> Model | None:
    """Load the model of `spec` by its family's loader; None if it computes nothing."""
    return None if spec.family is None else loaders[spec.family]()(spec, folder, hashes, runtime)
