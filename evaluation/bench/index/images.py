"""Real images to make vectors of: the sample's works, and whatever else is given.

Embeddings of real images, kept on disk chunk by chunk: this is what a long run waits for, and goes on from.
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
from gmvaluator.ports import Embeddings, Float32Array
from gmvaluator.samples import sample_folder

MOST = 4_000
"""Images taken from one place."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SEED = 20_000


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images by number. content: a hash of all of them, so that what was made of them can be kept."""

    name: str
    count: int
    content: str
    image: Callable[[int], Image.Image]


def sample_pictures() -> Pictures:
    """The works of the sample. Raises MissingData."""
    return _of_folder(sample_folder("openclipart") / "images", "the sample")


def given_pictures(place: Path) -> Pictures:
    """Images of a folder, of an .npz with `images` (N, 28, 28) uint8, or of a folder with Fashion-MNIST's idx files.

    The first `MOST` are taken. Raises InvalidInput.
    """
    if place.suffix == ".npz":
        return _of_array(place.name, _stored(place))
    if (place / "t10k-images-idx3-ubyte.gz").is_file():
        return _of_array("Fashion-MNIST", load_fashion(place).images)
    return _of_folder(place, str(place))


def joined(parts: Sequence[Pictures]) -> Pictures:
    """All of them, one part after the other."""
    starts = np.cumsum([0, *(part.count for part in parts)])

    def image(number: int) -> Image.Image:
        part = int(np.searchsorted(starts, number, side="right")) - 1
        return parts[part].image(number - int(starts[part]))

    content = sha256_hex("".join(part.content for part in parts).encode())
    return Pictures(" and ".join(part.name for part in parts), int(starts[-1]), content, image)


def varied(pictures: Pictures, number: int) -> Image.Image:
    """Image `number` of an endless series: every picture as it is, then augmentations of each in turn.

    An augmentation is a random recipe and strength of `evaluation.images.recipes`, seeded by its number; recipe
    `compose` takes a random second picture.
    """
    if number < pictures.count:
        return pictures.image(number)
    return _derived(pictures, number % pictures.count, random.Random(f"{_SEED}:{number}"))  # noqa: S311 - no secret


def held_out(pictures: Pictures, number: int) -> Image.Image:
    """Question `number`: an augmentation of a random picture, which is in no such series."""
    rng = random.Random(f"{_SEED}:question:{number}")  # noqa: S311 - no secret
    return _derived(pictures, rng.randrange(pictures.count), rng)


def _derived(pictures: Pictures, source: int, rng: random.Random) -> Image.Image:
    kind, strength = rng.choice(KINDS), rng.choice(STRENGTHS)
    others = [rng.randrange(pictures.count) for _ in range(source_count(kind) - 1)]
    return derive(kind, strength, [pictures.image(one) for one in (source, *others)], rng)


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
    taken = images[:MOST]
    return Pictures(name, len(taken), sha256_hex(taken.tobytes()), lambda number: to_image(taken[number]))


def _of_folder(folder: Path, name: str) -> Pictures:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:MOST]
    if not paths:
        raise InvalidInput(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}): name another folder")
    files = [path.read_bytes() for path in paths]
    content = sha256_hex("".join(sha256_hex(data) for data in files).encode())
    return Pictures(name, len(files), content, lambda number: decode_image(files[number]))


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
        with atomic_file(path, durable=False) as file:  # a cache of what can be embedded again
            np.savez(file, recall=recall, perceptual=perceptual)
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
        from gmvaluator.models.lite_views import prepare

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
    with atomic_file(path, durable=False) as file:  # a cache of what can be embedded again
        np.save(file, rows)
