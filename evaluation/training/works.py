"""The training works: a fixed list of public-domain clip art by others, and what is by the sample's fit artists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.ids import sha256_hex
from gmvaluator.models.lite_network import fitted

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


FIT_ARTISTS = (
    *("abiclipart", "biele", "codifiedivining", "eady", "gerhards", "guillou", "hevia", "kaplinski", "krug"),
    *("linda kim", "luiz ara", "mcrae"),
)
"""Those of SAMPLE_ARTISTS that may be learned from, as `evaluation.split.FIT_OWNERS` has them; `mo` is a whole name."""

MAX_PER_ARTIST = 400
"""One artist has 1,375 works, most of them signs of one series."""


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
    read = [work for name in lines for work in read_work(folder, name)]
    works = [work for work in read if not by_sample_artist(work.artist)]
    counts = f"{len(lines) - len(read)} are too large, {len(read) - len(works)} are by the sample's artists"
    print(f"{len(works)} of {len(lines)} works used; {counts}", file=sys.stderr)  # noqa: T201
    return works


def read_fit_works(folder: Path) -> list[Work]:
    """The package's works that are by one of the sample's fit artists alone, at most `MAX_PER_ARTIST` of each."""
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
    """The works without those whose pixels repeat an earlier one's, in order."""
    first: dict[bytes, Work] = {}
    for work in works:
        first.setdefault(work.image.tobytes(), work)
    return list(first.values())


def fit_artist(author: str) -> str | None:
    """What tells the fit artist whom a file names as its only author; None if it names another or several."""
    lower = author.lower().strip()
    if lower == "mo":
        return lower
    if " and " in lower or "et al" in lower:
        return None
    return next((known for known in FIT_ARTISTS if known in lower), None)


def author_of(path: Path) -> str:
    """The author that a PNG file names, or an empty string."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return str(image.info.get("Author") or "")
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def as_input(image: Image.Image, side_px: int) -> npt.NDArray[np.uint8]:
    """(3, S, S) uint8: the whole image, centred on white, as the product prepares it."""
    return fitted(image, side_px).transpose(2, 0, 1).copy()


def by_sample_artist(artist: str) -> bool:
    """Whether an author's name, as a file gives it, is that of one of the sample's artists, alone or with others."""
    lower = artist.lower()
    return lower in ("jakob", "mo") or any(known in lower for known in SAMPLE_ARTISTS)


def read_work(folder: Path, name: str) -> Iterator[Work]:
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
