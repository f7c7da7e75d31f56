"""Small pictures, their cached embeddings, exact nearest neighbours, and what a policy pays them.

MNIST, of which 10,000 digits are shipped, and Fashion-MNIST, if its files are given. Embedding dominates the time of
a run, so embeddings are kept on disk. Exact search and payment are the plain twin of the index.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.errors import InvalidInput
from gmvaluator.files import atomic_file
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.ports import Embeddings, Float32Array, Models
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import distance_millionths

SIDE_PX = 28
CLASSES = 10
_SHUFFLE_SEED = 60_000
_MAX_PICTURES = 60_000
_MAGIC_IMAGES, _MAGIC_LABELS = 2051, 2049

Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A data set of labelled pictures in a fixed random order.

    images: (N, 28, 28) uint8, bright on black. labels: (N,) classes 0 to 9.
    """

    name: str
    images: Pictures
    labels: Labels

    def part(self, start: int, stop: int) -> Labelled:
        """Return rows start to stop. Raises InvalidInput if there are fewer."""
        if stop > len(self.images):
            raise InvalidInput(f"{self.name} has {len(self.images):,} pictures and {stop:,} are needed")
        return Labelled(self.name, self.images[start:stop], self.labels[start:stop])


def load_mnist() -> Labelled:
    """Load the shipped digits. Raises MissingData if the sample is not installed."""
    with np.load(sample_folder("mnist") / "mnist10k.npz", allow_pickle=False) as stored:
        return _shuffled("MNIST", stored["images"], stored["labels"])


def load_fashion(folder: Path) -> Labelled:
    """Load Fashion-MNIST's 10,000 test pictures from the idx files in `folder`, as in Debian's package.

    Raises InvalidInput if they are missing or malformed.
    """
    images = _idx(folder / "t10k-images-idx3-ubyte.gz", _MAGIC_IMAGES, 16)
    labels = _idx(folder / "t10k-labels-idx1-ubyte.gz", _MAGIC_LABELS, 8)
    if len(images) != len(labels) * SIDE_PX * SIDE_PX or labels.max(initial=0) >= CLASSES:
        raise InvalidInput(f"the idx files in {folder} do not belong together: unpack dataset-fashion-mnist again")
    return _shuffled("Fashion-MNIST", images.reshape(-1, SIDE_PX, SIDE_PX), labels)


def _idx(path: Path, magic: int, header: int) -> Pictures:
    limit = _MAX_PICTURES * SIDE_PX * SIDE_PX + header
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path} cannot be read as a gzipped idx file ({error})") from error
    if len(data) <= header or len(data) > limit or int.from_bytes(data[:4], "big") != magic:
        raise InvalidInput(f"{path} is no idx file of Fashion-MNIST")
    return np.frombuffer(data, dtype=np.uint8, offset=header)


def _shuffled(name: str, images: Pictures, labels: npt.NDArray[np.uint8]) -> Labelled:
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(images))
    return Labelled(name, images[order], labels[order].astype(np.int64))


def to_image(picture: Pictures) -> Image.Image:
    """Return an RGB image, dark on white, because profiles were made for works on paper."""
    return Image.fromarray(255 - picture).convert("RGB")


_CHUNK = 32


@dataclass
class Embedder:
    """An embedder of pictures by the models of a profile; they are loaded when the first picture is not on disk.

    Every picture is embedded whole, training images too: windows of 28 pixels would show nothing.
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
        """Embed (N, 28, 28) uint8 pictures, each as an image of its own."""
        return self._kept(pictures.tobytes(), len(pictures), lambda row: to_image(pictures[row]), what)

    def images(self, images: Sequence[Image.Image], what: str) -> Embeddings:
        """Embed RGB images."""
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
            parts.append(self.models.embed([self.models.prepare(image(row), parts=False) for row in rows]))
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
    """Return (B, P): the view of the whole image, the first of (B, Q, P) where a profile has several."""
    return perceptual if perceptual.ndim == 2 else perceptual[:, 0]


def _store(path: Path, embeddings: Embeddings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, durable=False) as file:  # a cache of what can be embedded again
        quality = np.asarray(embeddings.quality)
        np.savez(file, recall=embeddings.recall, perceptual=embeddings.perceptual, quality=quality)


Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest training images of each of J generated images, nearest first.

    rows: (J, K) numbers of the training images. distances: (J, K), 1 - cosine.
    """

    rows: Rows
    distances: Values

    def first(self, k: int) -> Near:
        """Return the k nearest of each."""
        return Near(self.rows[:, :k], self.distances[:, :k])


def distances(queries: npt.NDArray[np.float32], works: npt.NDArray[np.float32]) -> Values:
    """Return 1 - cosine, (J, N) in [0, 2], of (J, D) and (N, D) unit vectors."""
    cosine = queries.astype(np.float64) @ works.astype(np.float64).T
    return np.asarray(np.clip(1 - cosine, 0, 2))


def nearest(matrix: Values, k: int) -> Near:
    """Return the k smallest of each row of (J, N) distances; ties keep the order of the works."""
    rows = np.argsort(matrix, axis=1, kind="stable")[:, :k]
    return Near(rows, np.take_along_axis(matrix, rows, axis=1))


def shares(near: Near, policy: Policy) -> Values:
    """Return the (J, K) shares of the contributors by the policy; what is missing to one is unattributed."""
    cut = near.first(policy.k)
    matrix = np.zeros(near.rows.shape)
    for row, line in enumerate(cut.distances):
        matrix[row, : len(line)], _ = policy.shares([distance_millionths(float(distance)) for distance in line])
    return matrix


def paid(near: Near, portions: Values, works: int, quality: Values | None = None) -> Values:
    """Return the (J, N) values V(x_i, x̂_j) of every training image (equation 4).

    quality: (J,), or None to count every image as 1.
    """
    matrix = np.zeros((len(near.rows), works))
    weights = portions if quality is None else portions * quality[:, None]
    np.put_along_axis(matrix, near.rows, weights, axis=1)
    return matrix
