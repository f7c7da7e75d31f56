"""The training works: a fixed list of public-domain clip art, none of it in the sample or by its artists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

LIST = Path(__file__).parent / "openclipart-training.txt"
"""Paths without ending inside Debian's package `openclipart-png`, version 0.18."""

SIDE_PX = 256
"""Longest side of a work as it is used, as in the sample."""

MAX_PIXELS = 25_000_000
"""Larger works are left out: a handful of posters and flags of up to 600 megapixels."""


@dataclass(frozen=True, slots=True)
class Work:
    """One training work: RGB, transparency on white, longest side at most 256 px."""

    name: str
    artist: str
    image: Image.Image


def read_works(folder: Path, names: Path = LIST) -> list[Work]:
    """Works named in `names` that lie in `folder` as PNG, in list order. Raises FileNotFoundError if one is absent."""
    lines = names.read_text(encoding="utf-8").split()
    works = [Work(name, artist_key(name), image) for name in lines for image in _read(folder / f"{name}.png")]
    print(f"{len(works)} of {len(lines)} works read; the rest are over {MAX_PIXELS} pixels", file=sys.stderr)  # noqa: T201
    return works


def _read(path: Path) -> Iterator[Image.Image]:
    """The image, or nothing if it is too large. The limit below replaces Pillow's, which warns at less."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height <= MAX_PIXELS:
                yield _reduced(image)
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
    """What tells artists apart in a file name: `title_first_last_01` ends in the artist, often cut short.

    The word before the last is kept, as it is seldom cut; names without an artist count as one artist per folder.
    Two artists who share that word become one, which keeps a split artist-wise.
    """
    folder, _, title = name.rpartition("/")
    words = [word for word in re.sub(r"_?[0-9]+$", "", title).split("_") if word]
    return words[-2] if len(words) >= 3 else folder
