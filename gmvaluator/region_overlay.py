"""A generated image with the regions of works drawn over it: outlined, tinted, and numbered."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from gmvaluator.region_outlines import MAX_DRAWN, Picture, Point, area, colour, ink, label_points, outlines

LEAST_PX, MOST_PX = 768, 2048
"""Limits of the longer side of the picture that is drawn: an image outside of them is scaled."""

_SMOOTH = 2
"""Factor by which everything is drawn larger, and then reduced, so that edges are smooth."""

_TINT = 0.16
"""Opacity of the colour within an outline."""

_WHITE = (255, 255, 255)


class NumberedRegion(NamedTuple):
    """A region to draw: the number to write into it, from 1, which also decides its colour, and its mask of cells."""

    number: int
    mask: int


def draw_overlay(image: Image.Image, regions: Sequence[NumberedRegion]) -> bytes:
    """Return a PNG of an RGB image with the first `MAX_DRAWN` regions.

    The image keeps its shape; small images are enlarged, so that numbers can be read.
    """
    longer = max(image.size)
    scale = min(max(longer, LEAST_PX), MOST_PX) / longer
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    shown = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
    if regions:
        shown = _with_regions(shown, regions[:MAX_DRAWN])
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def _with_regions(image: Image.Image, regions: Sequence[NumberedRegion]) -> Image.Image:
    # Drawn twice as large and reduced: Pillow itself draws lines and circles with hard edges.
    size = image.width * _SMOOTH, image.height * _SMOOTH
    picture = Picture(*size)
    width = max(round(max(size) / 220), 2)
    drawn = [(outlines(region.mask, picture), colour(region.number - 1)) for region in regions]
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    for paths, name in drawn:
        _tint(canvas, paths, name)
    draw = ImageDraw.Draw(canvas)
    for paths, _ in drawn:
        _draw_lines(draw, paths, _WHITE, 2 * width)
    for paths, name in drawn:
        _draw_lines(draw, paths, name, width)
    for region, point in zip(regions, label_points([region.mask for region in regions], picture), strict=True):
        _draw_number(draw, point, region.number, max(size) / 44)
    return canvas.resize(image.size, Image.Resampling.BOX)


def _tint(canvas: Image.Image, paths: Sequence[Sequence[Point]], fill: str) -> None:
    """Lay a colour over the insides of paths; holes stay as they are."""
    inside = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(inside)
    # Paths around holes run the other way, and lie within those that were drawn before them.
    for path in sorted(paths, key=lambda path: -abs(area(path))):
        draw.polygon([*path], fill=round(255 * _TINT) if area(path) > 0 else 0)
    canvas.paste(Image.new("RGB", canvas.size, fill), mask=inside)


def _draw_lines(
    draw: ImageDraw.ImageDraw, paths: Sequence[Sequence[Point]], fill: str | tuple[int, int, int], width: int
) -> None:
    for path in paths:
        draw.line([*path, *path[:2]], fill=fill, width=width, joint="curve")


def _draw_number(draw: ImageDraw.ImageDraw, point: Point, number: int, radius: float) -> None:
    background = colour(number - 1)
    draw.circle(point, radius * 1.15, fill=_WHITE)
    draw.circle(point, radius, fill=background)
    font = ImageFont.load_default(radius * 1.25)
    draw.text(point, str(number), fill=ink(background), font=font, anchor="mm")
