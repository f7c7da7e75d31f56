"""The training works: a fixed list of public-domain clip art, without what is by the sample's artists."""

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

SAMPLE_ARTISTS = (
    *("abiclipart", "balin", "benji park", "biele", "caleb moore", "clementz", "codifiedivining", "danny allen"),
    *("eady", "fitzsimon", "gerald g", "gerhards", "guillou", "hevia", "jakobs", "john cliff", "jonadab", "kaplinski"),
    *("kolehmainen", "krug", "linda kim", "luiz ara", "lumen design", "mcrae"),
)
"""What tells each of the sample's artists in an author's name; `jakob` and `mo` are whole names. The list has some
thirty works by them, under other spellings or together with others."""


@dataclass(frozen=True, slots=True)
class Work:
    """One training work: RGB, transparency on white, longest side at most 256 px; artist as its file says."""

    name: str
    artist: str
    image: Image.Image


def read_works(folder: Path, names: Path = LIST) -> list[Work]:
    """Works named in `names` that lie in `folder` as PNG, in list order: not too large, not by the sample's artists.

    Raises FileNotFoundError if one is absent.
    """
    lines = names.read_text(encoding="utf-8").split()
    read = [work for name in lines for work in _read(folder, name)]
    works = [work for work in read if not by_sample_artist(work.artist)]
    counts = f"{len(lines) - len(read)} are too large, {len(read) - len(works)} are by the sample's artists"
    print(f"{len(works)} of {len(lines)} works used; {counts}", file=sys.stderr)  # noqa: T201
    return works


def by_sample_artist(artist: str) -> bool:
    """Whether an author's name, as a file gives it, is that of one of the sample's artists, alone or with others."""
    lower = artist.lower()
    return lower in ("jakob", "mo") or any(known in lower for known in SAMPLE_ARTISTS)


def _read(folder: Path, name: str) -> Iterator[Work]:
    """The work, or nothing if it is too large. The limit below replaces Pillow's, which warns at less."""
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
    """What tells artists apart where the file names no author: `title_first_last_01` ends in one, often cut short.

    The word before the last is kept, as it is seldom cut; names without an artist count as one artist per folder.
    Two artists who share that word become one, which keeps a split artist-wise.
    """
    folder, _, title = name.rpartition("/")
    words = [word for word in re.sub(r"_?[0-9]+$", "", title).split("_") if word]
    return words[-2] if len(words) >= 3 else folder
