"""Real images and their embeddings for the index benchmark.

Computing the embeddings takes most of a long run, so they are cached on disk in chunks: a stopped run can be resumed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluation.generators.digits import load_fashion, to_image
from evaluation.images.recipes import KINDS, STRENGTHS, derive, source_count
from gmvaluator.errors import InvalidInput
from gmvaluator.files import atomic_file
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.ports import Embeddings, Float32Array, Prepared
from gmvaluator.samples import sample_folder

MAX_IMAGES = 4_000
"""Maximum number of images taken from one source."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SEED = 20_000

PROFILE = "lite"
CHUNK = 1_024
"""Embeddings per cache file."""

_BATCH = 32
_DECODERS = 2
"""Threads that decode images."""

_REPORT_S = 20.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """A numbered set of images. content: hash of all of them, which is the key of their cached embeddings."""

    name: str
    count: int
    content: str
    image: Callable[[int], Image.Image]


def sample_pictures() -> Pictures:
    """Return the works of the sample. Raises MissingData."""
    return _of_folder(sample_folder("openclipart") / "images", "the sample")


def given_pictures(place: Path) -> Pictures:
    """Return the images of a folder, an .npz with `images` (N, H, W) uint8, or a folder of Fashion-MNIST's idx files.

    At most `MAX_IMAGES` are taken. Raises InvalidInput.
    """
    if place.suffix == ".npz":
        return _of_array(place.name, _stored(place))
    if (place / "t10k-images-idx3-ubyte.gz").is_file():
        return _of_array("Fashion-MNIST", load_fashion(place).images)
    return _of_folder(place, str(place))


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Return the concatenation of several sets."""
    starts = np.cumsum([0, *(part.count for part in parts)])

    def image(number: int) -> Image.Image:
        part = int(np.searchsorted(starts, number, side="right")) - 1
        return parts[part].image(number - int(starts[part]))

    content = sha256_hex("".join(part.content for part in parts).encode())
    return Pictures(" and ".join(part.name for part in parts), int(starts[-1]), content, image)


def varied(pictures: Pictures, number: int) -> Image.Image:
    """Return image `number` of an endless series: every picture as it is, then augmentations of each in turn.

    An augmentation is a random recipe of `evaluation.images.recipes` with a random strength, seeded by its number;
    recipe `compose` takes a random second picture.
    """
    if number < pictures.count:
        return pictures.image(number)
    return _derived(pictures, number % pictures.count, random.Random(f"{_SEED}:{number}"))  # noqa: S311 - no secret


def held_out(pictures: Pictures, number: int) -> Image.Image:
    """Return held-out query `number`: an augmentation of a random picture that the series does not contain."""
    rng = random.Random(f"{_SEED}:question:{number}")  # noqa: S311 - no secret
    return _derived(pictures, rng.randrange(pictures.count), rng)


def _derived(pictures: Pictures, source: int, rng: random.Random) -> Image.Image:
    kind, strength = rng.choice(KINDS), rng.choice(STRENGTHS)
    others = [rng.randrange(pictures.count) for _ in range(source_count(kind) - 1)]
    return derive(kind, strength, [pictures.image(picture) for picture in (source, *others)], rng)


def _stored(place: Path) -> npt.NDArray[np.uint8]:
    try:
        with np.load(place, allow_pickle=False) as stored:
            images: npt.NDArray[np.uint8] = stored["images"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"{place} cannot be read: give an .npz with an array `images` ({error})") from error
    if images.ndim != 3 or images.dtype != np.uint8 or not len(images):
        raise InvalidInput(f"{place} holds {images.dtype} {images.shape}: grey images (N, H, W) of uint8 are needed")
    return images


def _of_array(name: str, images: npt.NDArray[np.uint8]) -> Pictures:
    images = images[:MAX_IMAGES]
    return Pictures(name, len(images), sha256_hex(images.tobytes()), lambda number: to_image(images[number]))


def _of_folder(folder: Path, name: str) -> Pictures:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:MAX_IMAGES]
    if not paths:
        raise InvalidInput(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}): name another folder")
    files = [path.read_bytes() for path in paths]
    content = sha256_hex("".join(sha256_hex(data) for data in files).encode())
    return Pictures(name, len(files), content, lambda number: decode_image(files[number]))


def embedded(pictures: Pictures, count: int, folder: Path) -> Float32Array:
    """Return the `recall` vectors by profile `lite`, (count, D) float32 of unit norm, of the first `count` of `varied`.

    Only the whole image is embedded. folder: cache of the embeddings.
    """
    cache = folder / f"embedded-{_key(pictures)}"
    cache.mkdir(parents=True, exist_ok=True)
    single: _SinglePass | None = None
    for start in range(0, count, CHUNK):
        path = cache / f"{start // CHUNK:06}.npy"
        if not path.exists():
            single = single or _SinglePass()
            _store(path, single.chunk(lambda number: varied(pictures, number), range(start, start + CHUNK), count))
    paths = [cache / f"{start // CHUNK:06}.npy" for start in range(0, count, CHUNK)]
    return np.concatenate([np.load(path) for path in paths])[:count]


def held_out_queries(pictures: Pictures, count: int, folder: Path) -> Embeddings:
    """Return the embeddings of `count` held-out images, as the service embeds a generated image."""
    path = folder / f"questions-{_key(pictures)}-{count}.npz"
    if not path.exists():
        models = load_models(PROFILE)
        parts = [
            models.embed([models.prepare(held_out(pictures, number)) for number in numbers])
            for numbers in _batches(range(count))
        ]
        recall, perceptual = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("recall", "perceptual")
        )
        with atomic_file(path, durable=False) as file:  # a cache, which can be computed again
            np.savez(file, recall=recall, perceptual=perceptual)
    with np.load(path, allow_pickle=False) as stored:
        return Embeddings(stored["recall"], stored["perceptual"], None)


class _SinglePass:
    """The recall model of profile `lite` alone: one forward pass per image, where a work takes ten and a query two."""

    def __init__(self) -> None:
        from gmvaluator.models.lite import LiteModels

        models = load_models(PROFILE)
        assert isinstance(models, LiteModels)
        self._models = models
        self._reported = time.monotonic()

    def chunk(self, image: Callable[[int], Image.Image], numbers: range, count: int) -> Float32Array:
        """Return the embeddings of images by number. Batches are decoded while others are embedded."""
        from gmvaluator.models.lite_views import prepare

        with ThreadPoolExecutor(_DECODERS) as pool:
            batches = [pool.map(lambda number: prepare(image(number)), batch) for batch in _batches(numbers)]
            parts = [self._models.embed_whole([Prepared.shared(pixels) for pixels in batch]) for batch in batches]
        self._report(min(numbers.stop, count), count)
        return np.concatenate(parts)

    def _report(self, done: int, count: int) -> None:
        if time.monotonic() - self._reported > _REPORT_S or done == count:
            print(f"bench index: embedded {done:,}/{count:,}", file=sys.stderr, flush=True)  # noqa: T201 - progress
            self._reported = time.monotonic()


def _batches(numbers: range) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH))


def _key(pictures: Pictures) -> str:
    return sha256_hex(f"{pictures.content} {profile_identity(PROFILE).hash}".encode())[:16]


def _store(path: Path, rows: Float32Array) -> None:
    with atomic_file(path, durable=False) as file:  # a cache, which can be computed again
        np.save(file, rows)
