"""The query images of the benchmark with their known sources.

The number of images of each kind and the seeds were fixed before anything was fitted or measured. Nothing may be
fitted on, or chosen by, what TEST, THIRD and FOURTH show.

Reconstructions come from a small linear autoencoder with tied weights, trained in seconds on the works of a split:
the known source that resembles a generator's output most. Its best weights are the principal components (Baldi and
Hornik, 1989), so training is one decomposition, exact and repeatable.
"""

from __future__ import annotations

import io
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

from evaluation.images import compositions
from evaluation.images.changes import FIT_KINDS, THIRD_KINDS, change
from evaluation.images.compositions import FORMS
from evaluation.images.recipes import (
    FIT_OWNERS,
    KINDS,
    SIDE_PX,
    STRENGTHS,
    TEST_KINDS,
    TEST_OWNERS,
    WEIGHTS,
    compose_weighted,
    source_count,
    square,
)
from evaluation.images.sample import Work, draw_sources, read_foreign
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

SINGLE_KINDS = tuple(kind for kind in KINDS if source_count(kind) == 1)
"""Recipes of one source that a fit may use."""

RECIPES = (*KINDS, *TEST_KINDS)

COPY = "copy"
"""The work itself: unchanged, as JPEG, as WebP, or at three quarters of the size."""

RECONSTRUCTION = "reconstruction"
"""The work as a small autoencoder reproduces it; in the test only, and counted separately from the recipes."""

COMPOSED = ("two", "three")
NOISE = "noise"
FIT_SEED = 424_242
TEST_SEED = 20_261_125
"""Seed of the second draw, made when policy `calibrated@2` was fixed.

On the first draw, of seed 424_242, its handling of near-duplicates had been chosen with the test figures in view.
"""

PARTS_SEED = 20_261_129
THIRD_SEED = 20_261_130
"""Seed of the third draw, made before any policy that pays parts of an image was fitted."""

FOURTH_SEED = 20_261_204
"""Seed of the fourth draw, made after the third had shown what the first version of `calibrated@3` missed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of images of each kind in a split.

    split: `fit` or `test`. owners: artists whose works are changed. kinds: changes of one source. per_cell: images of
    each kind and strength. copies, composed, reconstructed: images of each strength; `composed` are of two and three
    works by the recipe. per_form: compositions of each form of `compositions.FORMS`. noise: sourceless images made of
    noise. foreign_each: of the foreign images, the first of so many is taken. seed: decides which works are drawn and
    how they are changed.
    """

    split: str
    owners: frozenset[str]
    kinds: tuple[str, ...]
    per_cell: int
    copies: int
    composed: int
    noise: int
    reconstructed: int = 0
    seed: int = FIT_SEED
    per_form: int = 0
    foreign_each: int = 1


FIT = Plan("fit", FIT_OWNERS, SINGLE_KINDS, per_cell=25, copies=6, composed=6, noise=40)
TEST = Plan(
    "test",
    TEST_OWNERS,
    (*SINGLE_KINDS, *TEST_KINDS),
    per_cell=16,
    copies=16,
    composed=12,
    noise=40,
    reconstructed=16,
    seed=TEST_SEED,
)
PARTS_FIT = Plan("fit", FIT_OWNERS, FIT_KINDS, per_cell=5, copies=4, composed=0, noise=40, seed=PARTS_SEED, per_form=43)
"""Images for fitting a policy that pays every work it sees in a part of an image."""

THIRD = Plan("test", TEST_OWNERS, THIRD_KINDS, per_cell=8, copies=8, composed=0, noise=40, seed=THIRD_SEED, per_form=29)
"""The third draw: changes of 15 kinds that nothing was fitted on, and compositions of two to six works."""

FOURTH = replace(THIRD, seed=FOURTH_SEED)
"""The fourth draw: other works and other changes of the same kinds."""

SHORT_FIT = replace(FIT, per_cell=1, copies=1, composed=1, noise=4, foreign_each=6)
SHORT_TEST = replace(TEST, per_cell=1, copies=1, composed=1, noise=4, reconstructed=1, foreign_each=6)
SHORT_PARTS_FIT = replace(PARTS_FIT, per_cell=1, copies=1, noise=4, per_form=1, foreign_each=6)
SHORT_THIRD = replace(THIRD, per_cell=1, copies=1, noise=4, per_form=1, foreign_each=6)
SHORT_FOURTH = replace(SHORT_THIRD, seed=FOURTH_SEED)

CODE_NUMBERS = (160, 80, 40, 20)
"""Numbers that the code keeps of a work, at strengths 1 to 4."""

_TRAINED_PX = 96
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """A linear autoencoder. mean: (27648,), pixels of the mean work in [0, 1]. weights: (160, 27648), orthonormal, by
    variance."""

    mean: Pixels
    weights: Pixels

    def reconstruct(self, work: Image.Image, strength: int) -> Image.Image:
        """Return the work as the code of this strength reproduces it: RGB, 256 x 256."""
        weights = self.weights[: CODE_NUMBERS[strength - 1]]
        decoded = self.mean + (_pixels(work) - self.mean) @ weights.T @ weights
        levels = np.rint(decoded.clip(0, 1) * 255).astype(np.uint8).reshape(_TRAINED_PX, _TRAINED_PX, 3)
        return Image.fromarray(levels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def train_autoencoder(works: Sequence[Image.Image]) -> Autoencoder:
    """Train on RGB works of any size; the code has fewer numbers than there are works.

    The principal components come from the inner products of the works, which are fewer than the pixels.
    """
    pixels = np.stack([_pixels(work) for work in works])
    mean = pixels.mean(axis=0)
    pixels -= mean
    spread, directions = np.linalg.eigh((pixels @ pixels.T).astype(np.float64))
    count = min(CODE_NUMBERS[0], len(works) - 1)
    telling = directions[:, ::-1][:, :count] / np.sqrt(spread[::-1][:count])
    return Autoencoder(mean, telling.T.astype(np.float32) @ pixels)


def _pixels(work: Image.Image) -> Pixels:
    small = square(work).resize((_TRAINED_PX, _TRAINED_PX), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / np.float32(255)


_MIN_CONTRAST = 12.0
"""Minimum contrast, as in `make_examples`: an image below it shows almost nothing and is drawn again."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query image.

    kind: a change of one work, `copy`, `reconstruction`, `two`, `three`, a form of composition such as `grid-4`, or
    the kind of a foreign image. strength: 0 where there is none. sources: keys of the works it was made from with their
    shares, which sum to one; empty for a foreign image. group: label that is resampled as a whole for intervals: the
    main source's artist, or the foreign photograph or artist.
    """

    kind: str
    strength: int
    sources: tuple[tuple[str, float], ...]
    group: str
    image: Image.Image


def make_queries(
    plan: Plan,
    works: Sequence[Work],
    folder: Path,
    indexed: Collection[str] = frozenset(),
    foreign: Path | None = None,
) -> list[Query]:
    """Make all images of a plan, the same each time.

    works: those that may be changed, whose files are in `folder`. indexed: SHA-256 of foreign images that are in the
    index and therefore have a source; they are left out. foreign: folder that `evaluation.images.make_foreign_set`
    made; None for the shipped foreign images.
    """
    own = [work for work in works if work.owner_id in plan.owners]
    rng = random.Random(f"{plan.seed}/{plan.split}")  # noqa: S311 - must be reproducible
    maker = _Maker(draw_sources(own, rng), folder, rng)
    queries = [
        maker.single(kind, strength) for kind in plan.kinds for strength in STRENGTHS for _ in range(plan.per_cell)
    ]
    queries += [maker.copy(strength) for strength in STRENGTHS for _ in range(plan.copies)]
    queries += [
        maker.composed(kind, count, strength)
        for count, kind in enumerate(COMPOSED, start=2)
        for strength in STRENGTHS
        for _ in range(plan.composed)
    ]
    queries += [maker.placed(form) for form in FORMS for _ in range(plan.per_form)]
    queries += _foreign(plan, foreign or sample_folder("foreign"), indexed)
    queries += [_noise(number, rng) for number in range(plan.noise)]
    return [*queries, *_reconstructions(plan, own, folder)]


@dataclass
class _Maker:
    draw: Iterator[Work]
    folder: Path
    rng: random.Random

    def single(self, kind: str, strength: int) -> Query:
        work, image = self._next()
        derived = change(kind, strength, image, self.rng)
        shown = derived if kind in RECIPES else square(image)  # other changes may take the contrast, not the work
        if sum(ImageStat.Stat(shown).stddev) / 3 < _MIN_CONTRAST:
            return self.single(kind, strength)
        return Query(kind, strength, ((work.key, 1.0),), work.owner_id, derived)

    def copy(self, strength: int) -> Query:
        work, image = self._next()
        return Query(COPY, strength, ((work.key, 1.0),), work.owner_id, _again(image, strength))

    def composed(self, kind: str, count: int, strength: int) -> Query:
        drawn = [self._next() for _ in range(count)]
        image = compose_weighted(strength, [image for _, image in drawn], self.rng)
        weights = WEIGHTS[count][strength - 1]
        sources = tuple((work.key, weight) for (work, _), weight in zip(drawn, weights, strict=True))
        return Query(kind, strength, sources, drawn[0][0].owner_id, image)

    def placed(self, form: str) -> Query:
        drawn: dict[str, tuple[Work, Image.Image]] = {}
        while len(drawn) < compositions.source_count(form):
            work, image = self._next()
            drawn[work.key] = work, image
        composition = compositions.compose(form, [image for _, image in drawn.values()], self.rng)
        main, _ = next(iter(drawn.values()))
        return Query(form, 0, tuple(zip(drawn, composition.shares, strict=True)), main.owner_id, composition.image)

    def _next(self) -> tuple[Work, Image.Image]:
        work = next(self.draw)
        return work, decode_image((self.folder / work.file_name).read_bytes())


def _again(image: Image.Image, strength: int) -> Image.Image:
    """Return a copy: 1 the same pixels, 2 JPEG of quality 85, 3 WebP of quality 60, 4 three quarters of the size."""
    if strength == 1:
        return image
    if strength == 4:
        return image.resize((round(image.width * 0.75), round(image.height * 0.75)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if strength == 2 else "WEBP", quality=85 if strength == 2 else 60)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _foreign(plan: Plan, folder: Path, indexed: Collection[str]) -> Iterator[Query]:
    rows = [row for row in read_foreign(folder) if row.split == plan.split]
    for row in rows[:: plan.foreign_each]:
        if row.sha256 not in indexed:
            image = decode_image((folder / row.file_name).read_bytes())
            yield Query(row.kind, 0, (), f"{row.kind}/{row.group}", image)


def _noise(number: int, rng: random.Random) -> Query:
    """Return white noise, coloured clouds, a gradient or stripes."""
    generator = np.random.default_rng(rng.getrandbits(64))
    if number % 4 == 2:
        corners = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        image = Image.fromarray(corners).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    elif number % 4 == 3:
        phase = np.add.outer(*(generator.uniform(0.02, 0.4) * np.arange(SIDE_PX) for _ in range(2)))
        stripes = (np.sin(phase)[:, :, None] > 0) * generator.integers(0, 256, 3)
        image = Image.fromarray(stripes.astype(np.uint8))
    else:
        side = SIDE_PX if number % 4 == 0 else int(generator.integers(4, 64))
        grain = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        image = Image.fromarray(grain).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return Query(NOISE, 0, (), f"{NOISE}/{number}", image)


def _reconstructions(plan: Plan, own: Sequence[Work], folder: Path) -> Iterator[Query]:
    """Yield reconstructions by an autoencoder trained on all works of the split."""
    if not plan.reconstructed:
        return
    model = _autoencoder(tuple(folder / work.file_name for work in own))
    draw = draw_sources(own, random.Random(f"{plan.seed}/{plan.split}/{RECONSTRUCTION}"))  # noqa: S311 - must be reproducible
    for strength in STRENGTHS:
        for _ in range(plan.reconstructed):
            work = next(draw)
            image = model.reconstruct(decode_image((folder / work.file_name).read_bytes()), strength)
            yield Query(RECONSTRUCTION, strength, ((work.key, 1.0),), work.owner_id, image)


@lru_cache(maxsize=1)
def _autoencoder(paths: tuple[Path, ...]) -> Autoencoder:
    return train_autoencoder([decode_image(path.read_bytes()) for path in paths])
