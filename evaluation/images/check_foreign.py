"""List the foreign images that resemble a work of the sample, and draw the nearest pairs for a person to look at.

    python -m evaluation.images.check_foreign FOLDER --sheet pairs.png

An image that shows a work of the sample has a source, and does not count as foreign. A person who finds one gives the
reason in `foreign-set.csv`, and builds the folder again with `evaluation.images.make_foreign_set`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from evaluation.images.recipes import square
from evaluation.images.sample import Work, read_foreign, read_works
from gmvaluator.images import decode_image
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Float32Array, Models
from gmvaluator.samples import sample_folder

NEAR = 0.9
"""Cosine similarity of recall vectors above which a pair is listed."""

_TILE_PX, _COLUMNS, _BATCH = 150, 5, 32


@dataclass(frozen=True, slots=True)
class Pair:
    """A foreign image and the work that resembles it most. similarity: cosine of their recall vectors."""

    foreign: Path
    work: Work
    similarity: float


def nearest_works(folder: Path, profile: str) -> list[Pair]:
    """Return every image of the folder with its nearest work, nearest pairs first."""
    models = load_models(profile)
    sample = sample_folder("openclipart")
    works = list(read_works(sample).values())
    rows = read_foreign(folder)
    of_works = _recall(models, [sample / work.file_name for work in works])
    similarities = _recall(models, [folder / row.file_name for row in rows]) @ of_works.T
    pairs = [
        Pair(folder / row.file_name, works[int(line.argmax())], float(line.max()))
        for row, line in zip(rows, similarities, strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair.similarity)


def _recall(models: Models, paths: Sequence[Path]) -> Float32Array:
    """Return the recall vectors of image files, (N, D), of length one."""
    parts = []
    for start in range(0, len(paths), _BATCH):
        images = [decode_image(path.read_bytes()) for path in paths[start : start + _BATCH]]
        parts.append(models.embed([models.prepare(image, parts=False) for image in images]).recall)
    vectors = np.concatenate(parts).astype(np.float32)
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def draw_pairs(pairs: Sequence[Pair]) -> Image.Image:
    """Return a sheet of pairs, the foreign image left of the work, each with its number and similarity."""
    height = _TILE_PX + 24
    sheet = Image.new("RGB", (_COLUMNS * (2 * _TILE_PX + 12), -(-len(pairs) // _COLUMNS) * height), "grey")
    draw = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        x, y = number % _COLUMNS * (2 * _TILE_PX + 12), number // _COLUMNS * height
        for place, path in enumerate((pair.foreign, sample_folder("openclipart") / pair.work.file_name)):
            tile = square(decode_image(path.read_bytes())).resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x + place * _TILE_PX, y + 18))
        draw.text((x + 2, y + 2), f"{number} {pair.similarity:.3f} {pair.foreign.stem[-34:]}", fill="white")
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.images.check_foreign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder made by `evaluation.images.make_foreign_set`")
    parser.add_argument("--sheet", type=Path, help="PNG file to draw the nearest pairs into")
    parser.add_argument("--count", type=int, default=30, help="number of pairs drawn; default: %(default)s")
    parser.add_argument("--profile", default="lite", help="default: %(default)s")
    options = parser.parse_args(arguments)
    pairs = nearest_works(options.folder, options.profile)
    for pair in pairs:
        if pair.similarity > NEAR:
            print(f"{pair.similarity:.4f} {pair.foreign.name} {pair.work.key}")  # noqa: T201
    if options.sheet:
        draw_pairs(pairs[: options.count]).save(options.sheet)
        print(f"drew the nearest pairs to {options.sheet}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
