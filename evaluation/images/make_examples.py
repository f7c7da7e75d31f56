"""Writes `examples/generated/`: stand-ins for a generator's output, made from the sample by known recipes.

    python -m evaluation.images.make_examples

writes one WebP file for every kind, strength and round, and `recipes.csv`, from which each can be made again.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from PIL import Image, ImageStat

from evaluation.images.recipes import KINDS, STRENGTHS, derive, source_count
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

ROUNDS = 3
"""Images of each kind and strength."""

SEED = 2304
_MIN_CONTRAST = 12.0
"""Mean standard deviation of the channels; a cut through blank paper has less and is drawn again."""


@dataclass(frozen=True, slots=True)
class Work:
    """A work of the sample, as its manifest names it."""

    key: str
    file_name: str
    owner_id: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """One row of `recipes.csv`: `derive(kind, strength, sources, random.Random(seed))` is the image."""

    file_name: str
    kind: str
    strength: int
    source_keys: str
    seed: int
    sha256: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Keys of the true sources, the main one first."""
        return tuple(self.source_keys.split(";"))


def read_works(folder: Path) -> dict[str, Work]:
    """The sample's works by key, in the manifest's order."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {row["key"]: Work(row["key"], row["file_name"], row["owner_id"], row["sha256"]) for row in rows}


def read_recipes(folder: Path) -> list[Recipe]:
    """Rows of `folder/recipes.csv`."""
    with (folder / "recipes.csv").open(encoding="utf-8", newline="") as lines:
        return [_recipe(row) for row in csv.DictReader(lines)]


def _recipe(row: dict[str, str]) -> Recipe:
    numbers = int(row["strength"]), int(row["seed"])
    return Recipe(row["file_name"], row["kind"], numbers[0], row["source_keys"], numbers[1], row["sha256"])


def draw_sources(works: Sequence[Work], rng: random.Random) -> Iterator[Work]:
    """Works without end, one of each owner in turn, owners in a new order each time round."""
    by_owner: dict[str, list[Work]] = {}
    for work in works:
        by_owner.setdefault(work.owner_id, []).append(work)
    while True:
        for owner in rng.sample(sorted(by_owner), len(by_owner)):
            yield rng.choice(by_owner[owner])


def render(kind: str, strength: int, sources: Sequence[Work], folder: Path, seed: int) -> Image.Image:
    """The derivative that a recipe names; `folder` holds the sources."""
    images = [decode_image((folder / source.file_name).read_bytes()) for source in sources]
    return derive(kind, strength, images, random.Random(seed))  # noqa: S311 - must be reproducible


def encode(image: Image.Image) -> bytes:
    """WebP of quality 88: small, and without visible loss."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=6)
    return buffer.getvalue()


def make(folder: Path, out: Path) -> list[Recipe]:
    """Write all images and `recipes.csv` to `out`; returns the rows."""
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
