"""Tables of the example images: works of the sample, recipes of the generated images, and foreign images."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluation.images.recipes import derive
from gmvaluator.images import decode_image


@dataclass(frozen=True, slots=True)
class Work:
    """A work of the sample: a row of its manifest."""

    key: str
    file_name: str
    owner_id: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """A row of `recipes.csv`: the image is `derive(kind, strength, sources, random.Random(seed))`."""

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
    """Read the manifest of the sample in `folder`; return its works by key, in the manifest's order."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {row["key"]: Work(row["key"], row["file_name"], row["owner_id"], row["sha256"]) for row in rows}


def read_recipes(folder: Path) -> list[Recipe]:
    """Read `recipes.csv` in `folder`."""
    with (folder / "recipes.csv").open(encoding="utf-8", newline="") as lines:
        return [_recipe(row) for row in csv.DictReader(lines)]


def _recipe(row: dict[str, str]) -> Recipe:
    numbers = int(row["strength"]), int(row["seed"])
    return Recipe(row["file_name"], row["kind"], numbers[0], row["source_keys"], numbers[1], row["sha256"])


def draw_sources(works: Sequence[Work], rng: random.Random) -> Iterator[Work]:
    """Yield random works endlessly, one of each owner per round, with the owners in a new order in each round."""
    by_owner: dict[str, list[Work]] = {}
    for work in works:
        by_owner.setdefault(work.owner_id, []).append(work)
    while True:
        for owner in rng.sample(sorted(by_owner), len(by_owner)):
            yield rng.choice(by_owner[owner])


def render(kind: str, strength: int, sources: Sequence[Work], folder: Path, seed: int) -> Image.Image:
    """Make the derivative of a recipe from its sources in `folder`."""
    images = [decode_image((folder / source.file_name).read_bytes()) for source in sources]
    return derive(kind, strength, images, random.Random(seed))  # noqa: S311 - must be reproducible


@dataclass(frozen=True, slots=True)
class Foreign:
    """A row of the manifest of foreign images, which have no source in the sample.

    group: photograph or artist; rows of a group are in the same split. split: "fit" or "test".
    """

    file_name: str
    kind: str
    group: str
    split: str
    author: str
    license: str
    source: str
    sha256: str


def read_foreign(folder: Path) -> list[Foreign]:
    """Read `manifest.csv` in `folder`."""
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        return [Foreign(**row) for row in csv.DictReader(lines)]
