"""Small pictures through a profile's models, kept on disk: embedding is what a run waits for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.digits.pictures import Pictures, to_image
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.ports import Embeddings, Float32Array, Models

_CHUNK = 32


@dataclass
class Embedder:
    """Embeds pictures by a profile; models are loaded when the first picture is not on disk.

    Every picture is seen whole, training images too: windows of 28 pixels would show nothing.
    """

    profile: str
    folder: Path
    _loaded: Models | None = field(default=None, init=False)

    @property
    def models(self) -> Models:
        """The profile's models."""
        if self._loaded is None:
            self._loaded = load_models(self.profile)
        return self._loaded

    def small(self, pictures: Pictures, what: str) -> Embeddings:
        """(N, 28, 28) uint8 to embeddings, as if each were a picture of its own."""
        return self._kept(pictures.tobytes(), len(pictures), lambda row: to_image(pictures[row]), what)

    def images(self, images: Sequence[Image.Image], what: str) -> Embeddings:
        """RGB images to embeddings."""
        content = b"".join(sha256_hex(image.tobytes()).encode() for image in images)
        return self._kept(content, len(images), images.__getitem__, what)

    def _kept(self, content: bytes, count: int, image: Callable[[int], Image.Image], what: str) -> Embeddings:
        key = sha256_hex(content + profile_identity(self.profile).hash.encode())
        path = self.folder / f"embeddings-{key[:24]}.npz"
        if not path.exists():
            _store(path, self._embed(count, image, what))
        with np.load(path, allow_pickle=False) as stored:
            return Embeddings(stored["recall"], stored["perceptual"], stored["quality"])

    def _embed(self, count: int, image: Callable[[int], Image.Image], what: str) -> Embeddings:
        parts = []
        for start in range(0, count, _CHUNK):
            rows = range(start, min(start + _CHUNK, count))
            parts.append(self.models.embed([self.models.prepare(image(row)) for row in rows]))
            if start // _CHUNK % 16 == 0:
                print(f"{what}: embedded {rows.stop:,}/{count:,}", file=sys.stderr, flush=True)  # noqa: T201
        return Embeddings(
            np.concatenate([part.recall for part in parts]),
            np.concatenate([whole_view(part.perceptual) for part in parts]),
            np.concatenate([self._quality(part) for part in parts]),
        )

    @staticmethod
    def _quality(part: Embeddings) -> Float32Array:
        # A profile whose quality is a model of its own is too slow for thousands of pictures: all count alike then.
        return part.quality if part.quality is not None else np.ones(len(part.recall), dtype=np.float32)


def whole_view(perceptual: Float32Array) -> Float32Array:
    """(B, P): of profiles that see an image in several views, (B, Q, P), the first, which is the whole image."""
    return perceptual if perceptual.ndim == 2 else perceptual[:, 0]


def _store(path: Path, embeddings: Embeddings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, recall=embeddings.recall, perceptual=embeddings.perceptual, quality=np.asarray(embeddings.quality))
    part.rename(path)
