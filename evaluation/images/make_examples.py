"""Write `examples/generated/`: stand-ins for a generator's output, made from the sample by known recipes.

    python -m evaluation.images.make_examples

writes one WebP file for every kind, strength and round, and `recipes.csv`, from which each can be reproduced.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from PIL import Image, ImageStat

from evaluation.images.recipes import KINDS, STRENGTHS, source_count
from evaluation.images.sample import Recipe, Work, draw_sources, read_works, render
from gmvaluator.ids import sha256_hex
from gmvaluator.samples import sample_folder

ROUNDS = 3
"""Images of each kind and strength."""

SEED = 2304
_MIN_CONTRAST = 12.0
"""Mean standard deviation of the channels below which an image, such as a crop of blank paper, is drawn again."""


def encode(image: Image.Image) -> bytes:
    """Encode as WebP of quality 88: small, and without visible loss."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=6)
    return buffer.getvalue()


def make(folder: Path, out: Path) -> list[Recipe]:
    """Write all images and `recipes.csv` to `out`; return the rows."""
    rng = random.Random(SEED)  # noqa: S311 - must be reproducible
    draw = draw_sources(list(read_works(folder).values()), rng)
    plan = [(kind, strength) for _ in range(ROUNDS) for kind in KINDS for strength in STRENGTHS]
    recipes = [_make_one(number, kind, strength, draw, folder, out) for number, (kind, strength) in enumerate(plan, 1)]
    with (out / "recipes.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Recipe)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(recipe) for recipe in recipes)
    return recipes


def _make_one(number: int, kind: str, strength: int, draw: Iterator[Work], folder: Path, out: Path) -> Recipe:
    sources = [next(draw) for _ in range(source_count(kind))]
    seed = SEED * 1000 + number
    image = render(kind, strength, sources, folder, seed)
    if sum(ImageStat.Stat(image).stddev) / 3 < _MIN_CONTRAST:
        return _make_one(number, kind, strength, draw, folder, out)
    data = encode(image)
    name = f"{number:02}-{kind}-{strength}.webp"
    (out / name).write_bytes(data)
    keys = ";".join(source.key for source in sources)
    return Recipe(name, kind, strength, keys, seed, sha256_hex(data))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.images.make_examples", description=__doc__)
    parser.add_argument("--sample", type=Path, default=None, help="folder with manifest.csv (default: the sample)")
    parser.add_argument("--out", type=Path, default=Path("examples/generated"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    recipes = make(options.sample or sample_folder("openclipart"), options.out)
    print(f"wrote {len(recipes)} images to {options.out}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
