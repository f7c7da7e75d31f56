"""A profile's models on several devices, for programs that embed many images: each device has an owner thread.

Every batch is split into one part a device. Devices do not agree to the bit: GPUs of one kind agree after the rounding
that this product applies; a mixture of kinds may not, as two machines may not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gmvaluator.errors import ModelFailed
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Embeddings, Float32Array, Models, Prepared, WorkEmbeddings
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from PIL.Image import Image

In = TypeVar("In")
Out = TypeVar("Out")


class MultiDeviceModels:
    """`ports.Models` on one device or more. One thread calls it; each device's models have a thread."""

    def __init__(self, loads: Sequence[Callable[[], Models]]) -> None:
        """Load the models; loads: one a device, called in the thread that will own its models. Raises like them."""
        self._owners = [ThreadPoolExecutor(1, thread_name_prefix=f"device-{number}") for number in range(len(loads))]
        try:
            loading = [owner.submit(load) for owner, load in zip(self._owners, loads, strict=True)]
            self._models = [future.result() for future in loading]
        except BaseException:
            self.close()
            raise
        if len({models.identity.hash for models in self._models}) != 1:
            self.close()
            raise ModelFailed("the devices were given models of different profiles")

    @property
    def identity(self) -> ProfileIdentity:
        return self._models[0].identity

    def prepare(self, image: Image, parts: bool = True) -> Prepared:
        """Implement `ports.Models`."""
        return self._models[0].prepare(image, parts)

    def prepare_work(self, image: Image) -> Sequence[Prepared]:
        """Implement `ports.Models`."""
        return self._models[0].prepare_work(image)

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Implement `ports.Models`. An error names a row by its place in its device's part."""
        parts = self._split(lambda models, part: models.embed(part), inputs)
        qualities = [part.quality for part in parts if part.quality is not None]
        return Embeddings(
            np.concatenate([part.recall for part in parts]),
            np.concatenate([part.perceptual for part in parts]),
            np.concatenate(qualities) if len(qualities) == len(parts) else None,
        )

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Implement `ports.Models`."""
        parts = self._split(lambda models, part: models.embed_works(part), inputs)
        return WorkEmbeddings(
            np.concatenate([part.recall for part in parts]), np.concatenate([part.perceptual for part in parts])
        )

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Implement `ports.Models`."""
        return np.concatenate(self._split(lambda models, part: models.quality(part), inputs))

    def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
        """Implement `ports.Models`. An image's place selects its device: continue with the same inputs, in order."""
        parts = self._split(lambda models, part: models.quality_slice(part), inputs)
        return [quality for part in parts for quality in part]

    def close(self) -> None:
        """End the owner threads."""
        for owner in self._owners:
            owner.shutdown()

    def _split(self, call: Callable[[Models, Sequence[In]], Out], inputs: Sequence[In]) -> list[Out]:
        """Call each device's models with its part; return the results in the order of the inputs.

        Raises the first error, once every device is idle.
        """
        if not inputs:
            raise ModelFailed("no images were given: ask the models with one at least")
        share = -(-len(inputs) // len(self._models))
        parts = [inputs[start : start + share] for start in range(0, len(inputs), share)]
        futures = [
            owner.submit(call, models, part)
            for owner, models, part in zip(self._owners, self._models, parts, strict=False)
        ]
        # Wait for all before raising: the caller may retry at once, and a model serves one thread at a time.
        for future in futures:
            future.exception()
        return [future.result() for future in futures]


def load_on_every_device(profile: str | ProfileChoice, device: str, threads: int | None = None) -> Models:
    """Load a profile's models, on every GPU if `device` is auto and there are several. Raises like `load_models`."""
    if device != "auto":
        return load_models(profile, device, threads)
    # Here, so that neither importing this module nor a named device imports torch.
    from gmvaluator.models.device import device_names

    names = device_names(device)
    if len(names) == 1:
        return load_models(profile, names[0], threads)
    return MultiDeviceModels([partial(load_models, profile, name, threads) for name in names])
