"""Overlays that `gmvaluator attribute` saves: each image with the regions of the works that are visible in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import rich_click as click

from gmvaluator.errors import Conflict, MissingData
from gmvaluator.files import atomic_write
from gmvaluator.v1 import attribution_pb2 as attribution_v1

SUFFIX = ".png"


class Overlays:
    """The files to draw on, one for each image; all are checked before anything is sent."""

    def __init__(self, path: Path, images: Sequence[Path]) -> None:
        """path: the file, or for several images its name without theirs.

        Raises click.UsageError, Conflict or MissingData.
        """
        if path.suffix.lower() != SUFFIX:
            raise click.UsageError(f"--save-overlay {path}: name a file that ends in {SUFFIX}")
        self._files = overlay_files(path, images)
        if not path.parent.is_dir():
            raise MissingData(f"the folder {path.parent} for --save-overlay does not exist: create it first")
        for file in self._files:
            if file.exists():
                raise Conflict(f"{file} exists: --save-overlay never overwrites, name a new file")

    def save(self, number: int, image: bytes, final: attribution_v1.Attribution) -> str:
        """Draw the overlay of the image at position `number`, and return a line that says so."""
        from gmvaluator.images import decode_image
        from gmvaluator.region_overlay import NumberedRegion, draw_overlay

        drawn = [
            NumberedRegion(place, int.from_bytes(row.visible.image_cells, "little"))
            for place, row in drawn_contributors(final)
        ]
        file = self._files[number]
        atomic_write(file, draw_overlay(decode_image(image), drawn), durable=False)
        works = f"{len(drawn)} works" if len(drawn) != 1 else "1 work"
        return (
            f"{file} shows the regions of {works}"
            if drawn
            else f"{file} shows no region: no work was verified in the image"
        )


def overlay_files(path: Path, images: Sequence[Path]) -> list[Path]:
    """Return the file of each image: `path` for one, "out-NAME.png" for each of several. Raises click.UsageError."""
    if len(images) == 1:
        return [path]
    files = [path.with_name(f"{path.stem}-{image.stem}{path.suffix}") for image in images]
    drawn: dict[Path, Path] = {}
    for file, image in zip(files, images, strict=True):
        other = drawn.setdefault(file, image)
        if other is not image:
            raise click.UsageError(f"{other} and {image} would both be drawn on {file}: attribute them in two calls")
    return files


def by_credit(attribution: attribution_v1.Attribution) -> list[attribution_v1.Contributor]:
    """Return a stage's contributors by their credit, or share where credits are not known yet; largest first."""
    final = attribution.stage == attribution_v1.STAGE_FINAL
    # Stable: equal ones stay nearest first.
    return sorted(attribution.contributors, key=lambda row: -(row.credit_micros if final else row.share))


def drawn_contributors(attribution: attribution_v1.Attribution) -> list[tuple[int, attribution_v1.Contributor]]:
    """Return the contributors whose regions are drawn, each with its number in the list `by_credit`, from 1.

    These are the verified ones with at least `MIN_DRAWN_SHARE` of the credit.
    """
    from gmvaluator.region_outlines import MAX_DRAWN, MIN_DRAWN_SHARE

    rows = enumerate(by_credit(attribution), start=1)
    return [(number, row) for number, row in rows if row.HasField("visible") and row.share >= MIN_DRAWN_SHARE][
        :MAX_DRAWN
    ]
