"""Where verified works are visible in a generated image: the regions of both, as paths of SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmvaluator.errors import InvalidImage
from gmvaluator.image_headers import read_header
from gmvaluator.ledger.posting import content_of
from gmvaluator.ledger.records import Contribution, Evidence
from gmvaluator.region_outlines import MAX_DRAWN, MIN_DRAWN_SHARE, Picture, Point, colour, ink, label_points, outlines
from gmvaluator.valuation.parts import visible_share, visible_text

_SIDE = 256
"""The longer side of a picture in the units of its paths, as many as a thumbnail has pixels."""

_SQUARE = Picture(_SIDE, _SIDE)


def visible_works(
    evidence: Evidence, rows: Sequence[dict[str, Any]], thumbnails: Sequence[Path], picture: str | None
) -> dict[str, Any] | None:
    """Return the regions of verified works, those with the largest share first; None if there are none.

    Works with less than `MIN_DRAWN_SHARE` of the credit are left out.

    rows: as the page shows the contributors, in the order of the evidence; each gets `seen`, the number of its region,
    and `visible`, its size and matches in words. Rows without a `work_id` are of works that the reader must not see.
    thumbnails: of the works in the same order, which may not exist. picture: URL of the generated image's thumbnail.
    """
    content = content_of(evidence)
    if content is None:
        return None
    image = _fitted(evidence.image.width, evidence.image.height)
    drawn = _drawn(evidence.contributions, rows)
    labels = label_points([evidence.contributions[place].sighting.region for place in drawn[:MAX_DRAWN]], image)
    for row, contribution in zip(rows, evidence.contributions, strict=True):
        row["visible"], row["seen"] = _in_words(contribution, content), None
    works = []
    for number, (place, label) in enumerate(zip(drawn, labels, strict=False), start=1):
        rows[place]["seen"] = number
        works.append(_work(number, rows[place], evidence.contributions[place], thumbnails[place], image, label))
    if not works:
        return None
    return {
        "picture": picture,
        "width": image.width,
        "height": image.height,
        "content": None if picture else _path(outlines(content, image)),
        "works": works,
        "more": len(drawn) - len(works),
    }


def _drawn(contributions: Sequence[Contribution], rows: Sequence[dict[str, Any]]) -> list[int]:
    """Return the places of the contributors whose regions are drawn, those with the largest share first."""
    seen = [
        place
        for place, (contribution, row) in enumerate(zip(contributions, rows, strict=True))
        if contribution.inliers and contribution.share >= MIN_DRAWN_SHARE and row["work_id"]
    ]
    return sorted(seen, key=lambda place: -contributions[place].share)


def _work(
    number: int, row: dict[str, Any], contribution: Contribution, thumbnail: Path, image: Picture, label: Point
) -> dict[str, Any]:
    background = colour(number - 1)
    work = _size(thumbnail)
    return {
        "number": number,
        "row": row,
        "colour": background,
        "ink": ink(background),
        "path": _path(outlines(contribution.sighting.region, image)),
        "x": f"{label.x:.1f}",
        "y": f"{label.y:.1f}",
        "width": work.width,
        "height": work.height,
        "work_path": _path(outlines(contribution.work_mask, work)),
    }


def _in_words(contribution: Contribution, content: int) -> str | None:
    sighting = contribution.sighting
    if not sighting.inliers:
        return None
    text = visible_text(visible_share(sighting.region, content), sighting.inliers)
    return text.replace("%", "\N{NARROW NO-BREAK SPACE}%")


def _size(thumbnail: Path) -> Picture:
    """Return the shape of a work's thumbnail; a square if none can be read."""
    try:
        header = read_header(thumbnail.read_bytes())
    except (OSError, InvalidImage):
        return _SQUARE
    return _fitted(header.width, header.height)


def _fitted(width: int, height: int) -> Picture:
    longer = max(width, height)
    return Picture(round(_SIDE * width / longer, 2), round(_SIDE * height / longer, 2))


def _path(outline: Sequence[Sequence[Point]]) -> str:
    return "".join(f"M{'L'.join(f'{point.x:.1f},{point.y:.1f}' for point in points)}Z" for points in outline)
