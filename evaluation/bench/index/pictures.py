"""Real images to make vectors of: the sample's works, and whatever else is given."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluation.digits.pictures import load_fashion, to_image
from evaluation.recipes import KINDS, STRENGTHS, derive, source_count
from gmvaluator.errors import InvalidInput
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image
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

    An augmentation is a random recipe and strength of `evaluation.recipes`, seeded by its number; to compose, a random
    second picture is taken.
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
