"""The training works: a fixed list of public-domain clip art, and the works of the sample's fit artists.

With seeded changes that leave a clean image as good as it was, and derivatives by the recipes for fitting, made once
and drawn from at every training step.
"""

from __future__ import annotations

import io
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from evaluation.images.recipes import KINDS, STRENGTHS, derive, source_count
from gmvaluator.ids import sha256_hex
from gmvaluator.image_pixels import fit_on_white

LIST = Path(__file__).parent / "openclipart-training.txt"
"""Paths without suffix inside Debian's package `openclipart-png`, version 0.18."""

SIDE_PX = 256
"""Longest side of a work as it is used, as in the sample."""

MAX_PIXELS = 25_000_000
"""Limit of a work's pixels: larger works, a few posters and flags of up to 600 megapixels, are left out."""

SAMPLE_ARTISTS = (
    *("abiclipart", "balin", "benji park", "biele", "caleb moore", "clementz", "codifiedivining", "danny allen"),
    *("eady", "fitzsimon", "gerald g", "gerhards", "guillou", "hevia", "jakobs", "john cliff", "jonadab", "kaplinski"),
    *("kolehmainen", "krug", "linda kim", "luiz ara", "lumen design", "mcrae"),
)
"""Parts of names that identify the sample's artists; `jakob` and `mo` are whole names.

The list has about thirty works by them, under other spellings or together with others.
"""


FIT_ARTISTS = (
    *("abiclipart", "biele", "codifiedivining", "eady", "gerhards", "guillou", "hevia", "kaplinski", "krug"),
    *("linda kim", "luiz ara", "mcrae"),
)
"""Artists of SAMPLE_ARTISTS whose works may be used for training: `evaluation.images.recipes.FIT_OWNERS`.

`mo` is a whole name.
"""

MAX_PER_ARTIST = 400
"""Limit of works by one artist: one of them has 1,375, most of them signs of one series."""


@dataclass(frozen=True, slots=True)
class Work:
    """One training work: RGB, transparency on white, longest side at most 256 px; artist as named in its file."""

    name: str
    artist: str
    image: Image.Image


def read_works(folder: Path, names: Path = LIST) -> list[Work]:
    """Read the works named in `names` from `folder` as PNG, in list order.

    Works that are too large or by the sample's artists are left out. Raises FileNotFoundError if one is absent.
    """
    lines = names.read_text(encoding="utf-8").split()
    read = [work for name in lines for work in read_work(folder, name)]
    works = [work for work in read if not by_sample_artist(work.artist)]
    counts = f"{len(lines) - len(read)} are too large, {len(read) - len(works)} are by the sample's artists"
    print(f"{len(works)} of {len(lines)} works used; {counts}", file=sys.stderr)  # noqa: T201
    return works


def read_fit_works(folder: Path) -> list[Work]:
    """Read the package's works that are by one of the sample's fit artists alone, at most `MAX_PER_ARTIST` of each."""
    by_artist: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.png")):
        artist = fit_artist(author_of(path))
        if artist is not None:
            by_artist.setdefault(artist, []).append(path.relative_to(folder).with_suffix("").as_posix())
    chosen = [
        name
        for artist, names in sorted(by_artist.items())
        for name in sorted(names, key=lambda name: sha256_hex(name.encode()))[:MAX_PER_ARTIST]
    ]
    works = [work for name in sorted(chosen) for work in read_work(folder, name)]
    print(f"{len(works)} works by {len(by_artist)} fit artists used", file=sys.stderr)  # noqa: T201
    return works


def distinct(works: Sequence[Work]) -> list[Work]:
    """Return the works in order, without those whose pixels repeat an earlier one's."""
    first: dict[bytes, Work] = {}
    for work in works:
        first.setdefault(work.image.tobytes(), work)
    return list(first.values())


def fit_artist(author: str) -> str | None:
    """Return the fit artist whom a file names as its only author; None for another author or several."""
    lower = author.lower().strip()
    if lower == "mo":
        return lower
    if " and " in lower or "et al" in lower:
        return None
    return next((known for known in FIT_ARTISTS if known in lower), None)


def author_of(path: Path) -> str:
    """Return the author that a PNG file names, or an empty string."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return str(image.info.get("Author") or "")
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def as_input(image: Image.Image, side_px: int) -> npt.NDArray[np.uint8]:
    """Return (3, S, S) uint8: the whole image, centred on white, as the product prepares it."""
    return np.asarray(fit_on_white(image, side_px)).transpose(2, 0, 1).copy()


def by_sample_artist(artist: str) -> bool:
    """Return whether an author's name in a file is one of the sample's artists, alone or with others."""
    lower = artist.lower()
    return lower in ("jakob", "mo") or any(known in lower for known in SAMPLE_ARTISTS)


def read_work(folder: Path, name: str) -> Iterator[Work]:
    """Yield the work, or nothing if it is too large. The limit below replaces Pillow's, which warns earlier."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(folder / f"{name}.png", formats=("PNG",)) as image:
            if image.width * image.height <= MAX_PIXELS:
                reduced = _reduced(image)
                yield Work(name, str(image.info.get("Author") or artist_key(name)).strip(), reduced)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reduced(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    paper = Image.new("RGBA", colours.size, "white")
    paper.alpha_composite(colours)
    flat = paper.convert("RGB")
    flat.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return flat


def artist_key(name: str) -> str:
    """Return a key for the artist of a file without an author: `title_first_last_01` ends in a name, often cut short.

    The word before the last is used, as it is seldom cut; files without a name count as one artist per folder. Two
    artists who share that word become one, which keeps a split by artist valid.
    """
    folder, _, title = name.rpartition("/")
    words = [word for word in re.sub(r"_?[0-9]+$", "", title).split("_") if word]
    return words[-2] if len(words) >= 3 else folder


def clean_variant(image: Image.Image, rng: random.Random) -> Image.Image:
    """Recolour, mirror, crop, tint or save the image with care, each at random; RGB.

    A quality head must not punish the difference.
    """
    result = image.copy()
    for change, chance in _CHANGES:
        if rng.random() < chance:
            result = change(result, rng)
    return result


def recolour(image: Image.Image, rng: random.Random) -> Image.Image:
    """Rotate all hues by one angle and scale saturation by 0.4 to 1.4."""
    hue, saturation, value = image.convert("HSV").split()
    shift = round(256 * rng.random())
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    result = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    return ImageEnhance.Color(result).enhance(0.4 + rng.random())


def _grey(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return image.convert("L").convert("RGB")


def _mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return ImageOps.mirror(image)


def _tint(image: Image.Image, rng: random.Random) -> Image.Image:
    """Replace white by another light colour, and tint everything else with it."""
    paper = np.array([0.55 + 0.45 * rng.random() for _ in range(3)])
    return Image.fromarray(np.rint(np.asarray(image) * paper).astype(np.uint8))


def _cut(image: Image.Image, rng: random.Random) -> Image.Image:
    """Enlarge a window of half to all of each side to the image's longest side."""
    shares = (0.5 + 0.5 * rng.random(), 0.5 + 0.5 * rng.random())
    width, height = (max(round(share * length), 16) for share, length in zip(shares, image.size, strict=True))
    x, y = round(rng.random() * max(image.width - width, 0)), round(rng.random() * max(image.height - height, 0))
    window = image.crop((x, y, min(x + width, image.width), min(y + height, image.height)))
    return ImageOps.contain(window, (max(image.size), max(image.size)), Image.Resampling.BICUBIC)


def _square(image: Image.Image, rng: random.Random) -> Image.Image:
    del rng
    return ImageOps.pad(image, (max(image.size), max(image.size)), Image.Resampling.BICUBIC, color=(255, 255, 255))


def _saved(image: Image.Image, rng: random.Random) -> Image.Image:
    """Save as WebP of quality 75 to 95, as the web and the sample have it."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=round(75 + 20 * rng.random()))
    return Image.open(buffer).convert("RGB")


_CHANGES = (
    (_mirror, 0.5),
    (_cut, 0.3),
    (_square, 0.5),
    (recolour, 0.4),
    (_grey, 0.05),
    (_tint, 0.15),
    (_saved, 0.7),
)


def make_pool(works: Sequence[Work], side_px: int, seed: int) -> Tensor:
    """Return (N, 5, 3, S, S) uint8: one derivative of each work by each of `recipes.KINDS`, of random strength."""
    pool = torch.empty((len(works), len(KINDS), 3, side_px, side_px), dtype=torch.uint8)
    for row, work in enumerate(works):
        rng = random.Random(f"{seed}/pool/{work.name}")  # noqa: S311 - must be reproducible
        for column, kind in enumerate(KINDS):
            pool[row, column] = torch.from_numpy(_derived(kind, work.image, works, side_px, rng))
        if row % 200 == 0:
            print(f"{row} of {len(works)} works derived", file=sys.stderr, flush=True)  # noqa: T201
    return pool


def _derived(
    kind: str, image: Image.Image, works: Sequence[Work], side_px: int, rng: random.Random
) -> npt.NDArray[np.uint8]:
    others = [rng.choice(works).image for _ in range(source_count(kind) - 1)]
    return as_input(derive(kind, rng.choice(STRENGTHS), [image, *others], rng), side_px)
