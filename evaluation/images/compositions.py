"""Seeded compositions of two to six works, with each work's share of the visible area.

Side by side or stacked (`strips`), in rows and columns (`grid`), one large work with small ones over it (`inset`), or
one shining through another (`blend`). A work fills its cell by being cut to its shape, or is shown whole on paper,
by chance; the cell counts as the work's either way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageOps, ImageStat

from evaluation.images.recipes import SIDE_PX, drawn_box

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the composition; right and bottom lie outside."""

_WHITE = (255, 255, 255)
_WHOLE: Box = (0, 0, SIDE_PX, SIDE_PX)
_MIN_CONTRAST = 12.0
"""Mean standard deviation of the channels below which a cut shows almost nothing."""

_MIN_FILLED = 0.4
"""Share of its cell that a work fills at least where it is shown whole."""


@dataclass(frozen=True, slots=True)
class Composition:
    """A composed image, RGB, 256 x 256.

    shares: by source, in the order given; they sum to one. Each is the share of the area in which the work is seen, or
    the weight of its pixels in a blend. boxes: by source, where it lies; a large work's is the whole image, parts of
    which others cover.
    """

    image: Image.Image
    shares: tuple[float, ...]
    boxes: tuple[Box, ...]


def source_count(form: str) -> int:
    """Return how many works a form shows: `grid-4` shows four."""
    return int(form.rpartition("-")[2])


def compose(form: str, sources: Sequence[Image.Image], rng: random.Random) -> Composition:
    """Compose RGB works of any size; the same arguments and generator state give the same pixels.

    form: one of FORMS. Raises ValueError for any other form or number of sources.
    """
    if form not in FORMS:
        raise ValueError(f"no composition {form}: forms are {FORMS}")
    if len(sources) != source_count(form):
        raise ValueError(f"{form} needs {source_count(form)} sources, not {len(sources)}")
    return _FORMS[form]([source.convert("RGB") for source in sources], rng)


def _strips(sources: Sequence[Image.Image], rng: random.Random) -> Composition:
    """Show the works side by side or one above the other, of equal widths or not."""
    edges = _edges(len(sources), rng)
    boxes: list[Box] = [(start, 0, end, SIDE_PX) for start, end in pairwise(edges)]
    if rng.random() < 0.5:
        boxes = [(0, start, SIDE_PX, end) for start, end in pairwise(edges)]
    return _collage(sources, boxes, rng)


def _grid(sources: Sequence[Image.Image], rng: random.Random) -> Composition:
    """Show four or six works in two rows or columns, whose lines are even or moved by chance."""
    long, short = _edges(len(sources) // 2, rng), _edges(2, rng)
    boxes: list[Box] = [(left, top, right, bottom) for top, bottom in pairwise(short) for left, right in pairwise(long)]
    if rng.random() < 0.5:
        boxes = [(top, left, bottom, right) for left, top, right, bottom in boxes]
    return _collage(sources, boxes, rng)


def _edges(count: int, rng: random.Random) -> list[int]:
    """Return the bounds of this many intervals of the side, even in half of the cases."""
    spread = 0.0 if rng.random() < 0.5 else 0.4
    weights = [rng.uniform(1 - spread, 1 + spread) for _ in range(count)]
    ends = [sum(weights[: number + 1]) / sum(weights) for number in range(count)]
    return [0, *(round(end * SIDE_PX) for end in ends)]


def _collage(sources: Sequence[Image.Image], boxes: Sequence[Box], rng: random.Random) -> Composition:
    """Show each work in a cell of its own, with a gutter between cells in half of the cases."""
    gutter_px = rng.randrange(2, 7) if rng.random() < 0.5 else 0
    result = Image.new("RGB", (SIDE_PX, SIDE_PX), _any_colour(rng) if gutter_px else _WHITE)
    placed = rng.sample(list(boxes), len(boxes))
    for source, (left, top, right, bottom) in zip(sources, placed, strict=True):
        inside = (right - left - gutter_px, bottom - top - gutter_px)
        result.paste(_fitted(source, inside, rng), (left + gutter_px // 2, top + gutter_px // 2))
    return Composition(result, tuple(_area(box) for box in placed), tuple(placed))


def _inset(sources: Sequence[Image.Image], rng: random.Random) -> Composition:
    """Show the first work large, and each other one small in or near a corner of its own."""
    result = _fitted(sources[0], (SIDE_PX, SIDE_PX), rng)
    boxes: list[Box] = [_WHOLE]
    corners = rng.sample([(x, y) for x in (0, 1) for y in (0, 1)], len(sources) - 1)
    for source, (across, down) in zip(sources[1:], corners, strict=True):
        side_px = round(SIDE_PX * rng.uniform(0.3, 0.46))
        margin_px = rng.randrange(9)
        left = SIDE_PX - side_px - margin_px if across else margin_px
        top = SIDE_PX - side_px - margin_px if down else margin_px
        result.paste(_fitted(source, (side_px, side_px), rng), (left, top))
        boxes.append((left, top, left + side_px, top + side_px))
    small = [_area(box) for box in boxes[1:]]
    return Composition(result, (1 - sum(small), *small), tuple(boxes))


def _blend(sources: Sequence[Image.Image], rng: random.Random) -> Composition:
    """Let the second work shine through the first with a weight of 0.3 to 0.5."""
    weight = rng.uniform(0.3, 0.5)
    main, other = (_fitted(source, (SIDE_PX, SIDE_PX), rng) for source in sources)
    return Composition(Image.blend(main, other, weight), (1 - weight, weight), (_WHOLE, _WHOLE))


def _fitted(source: Image.Image, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Return the work in this size, cut to its shape or whole on white, without its own margins.

    It is cut if it would fill too little of the size, and whole if the cut would show almost nothing.
    """
    drawn = source.crop(drawn_box(source))
    aspect = drawn.width * size[1] / (drawn.height * size[0])
    if rng.random() < 0.5 or min(aspect, 1 / aspect) < _MIN_FILLED:
        cut = ImageOps.fit(drawn, size, Image.Resampling.LANCZOS)
        if sum(ImageStat.Stat(cut).stddev) / 3 >= _MIN_CONTRAST:
            return cut
    return ImageOps.pad(drawn, size, Image.Resampling.LANCZOS, color=_WHITE)


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top) / SIDE_PX**2


def _any_colour(rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (rng.randrange(256) for _ in range(3))
    return red, green, blue


_FORMS: dict[str, Callable[[Sequence[Image.Image], random.Random], Composition]] = {
    "strips-2": _strips,
    "strips-3": _strips,
    "grid-4": _grid,
    "grid-6": _grid,
    "inset-2": _inset,
    "inset-3": _inset,
    "blend-2": _blend,
}
FORMS = tuple(_FORMS)
"""Forms of composition, each with its number of works."""
