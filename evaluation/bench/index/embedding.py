"""Embeddings of real images, kept on disk chunk by chunk: this is what a long run waits for, and goes on from."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.bench.index.pictures import Pictures, held_out, varied
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.ports import Embeddings, Float32Array

PROFILE = "lite"
CHUNK = 1_024
"""Images of one file."""

_BATCH = 32
_DECODERS = 2
_REPORT_S = 20.0


def embedded(pictures: Pictures, count: int, folder: Path) -> Float32Array:
    """(count, D) float32 of unit norm: `recall` vectors of the first `count` of `pictures.varied`, the whole image
    seen once by profile `lite`. What `folder` holds already is read."""
    place = folder / f"embedded-{_key(pictures)}"
    place.mkdir(parents=True, exist_ok=True)
    single: _SinglePass | None = None
    for start in range(0, count, CHUNK):
        path = place / f"{start // CHUNK:06}.npy"
        if not path.exists():
            single = single or _SinglePass()
            _store(path, single.chunk(lambda number: varied(pictures, number), range(start, start + CHUNK), count))
    paths = [place / f"{start // CHUNK:06}.npy" for start in range(0, count, CHUNK)]
    return np.concatenate([np.load(path) for path in paths])[:count]


def questions(pictures: Pictures, count: int, folder: Path) -> Embeddings:
    """Embeddings of `count` held-out images, as the service makes them of a generated image."""
    path = folder / f"questions-{_key(pictures)}-{count}.npz"
    if not path.exists():
        models = load_models(PROFILE)
        parts = [
            models.embed([models.prepare(held_out(pictures, number)) for number in numbers])
            for numbers in _batches(range(count))
        ]
        recall, perceptual = (
            np.concatenate([getattr(one, name) for one in parts]) for name in ("recall", "perceptual")
        )
        np.savez(path.with_suffix(".part.npz"), recall=recall, perceptual=perceptual)
        path.with_suffix(".part.npz").rename(path)
    with np.load(path, allow_pickle=False) as stored:
        return Embeddings(stored["recall"], stored["perceptual"], None)


class _SinglePass:
    """The recall half of profile `lite`: one forward pass an image, where a work takes ten and a query two."""

    def __init__(self) -> None:
        from gmvaluator.models.lite_network import HEADS_FILE, Heads, load_backbone, pinned_tensors

        identity = profile_identity(PROFILE)
        self._backbone = load_backbone(identity)
        self._heads = Heads(pinned_tensors(HEADS_FILE, identity.weights["heads"]))
        self._reported = time.monotonic()

    def chunk(self, image: Callable[[int], Image.Image], numbers: range, count: int) -> Float32Array:
        """Embeddings of some images; batches are decoded while others are embedded."""
        from gmvaluator.models.lite_network import prepare

        with ThreadPoolExecutor(_DECODERS) as pool:
            batches = [pool.map(lambda number: prepare(image(number)), one) for one in _batches(numbers)]
            parts = [self._embed(np.stack(list(inputs))) for inputs in batches]
        self._report(min(numbers.stop, count), count)
        return np.concatenate(parts)

    def _embed(self, inputs: Float32Array) -> Float32Array:
        import torch

        from gmvaluator.models.lite import CHUNK_ROWS
        from gmvaluator.models.lite_network import to_tensor

        with torch.inference_mode():
            tensors = torch.split(to_tensor(inputs, torch.device("cpu")), CHUNK_ROWS)
            return np.concatenate([self._heads(self._backbone(one))[0].numpy() for one in tensors])

    def _report(self, done: int, count: int) -> None:
        if time.monotonic() - self._reported > _REPORT_S or done == count:
            print(f"bench index: embedded {done:,}/{count:,}", file=sys.stderr, flush=True)  # noqa: T201 - progress
            self._reported = time.monotonic()


def _batches(numbers: range) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH))


def _key(pictures: Pictures) -> str:
    return sha256_hex(f"{pictures.content} {profile_identity(PROFILE).hash}".encode())[:16]


def _store(path: Path, rows: Float32Array) -> None:
    part = path.with_suffix(".part.npy")
    np.save(part, rows)
    part.rename(path)
