"""The images that are asked about, with what is known of them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from evaluation.compositions import WEIGHTS, compose_weighted
from evaluation.known_source.reconstruction import Autoencoder, train_autoencoder
from evaluation.known_source.spec import COMPOSED, COPY, NOISE, RECONSTRUCTION, Plan
from evaluation.make_examples import Work, draw_sources
from evaluation.make_foreign import read_foreign
from evaluation.recipes import SIDE_PX, STRENGTHS, derive
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

_MIN_CONTRAST = 12.0
"""See `make_examples`: a result with less shows next to nothing and is drawn again."""


@dataclass(frozen=True, slots=True)
class Query:
    """One image. kind: a recipe, `copy`, `reconstruction`, `two`, `three`, or what a foreign image is; strength 0 where
    there is none.

    sources: keys of the works it was made from, with their shares, which sum to one; empty for a foreign image.
    group: what is resampled whole for intervals: the main source's artist, or the foreign photograph or artist.
    """

    kind: str
    strength: int
    sources: tuple[tuple[str, float], ...]
    group: str
    image: Image.Image


def make_queries(plan: Plan, works: Sequence[Work], folder: Path) -> list[Query]:
    """All images of a plan, the same each time. works: of the sample, which lies in `folder`."""
    own = [work for work in works if work.owner_id in plan.owners]
    rng = random.Random(f"{plan.seed}/{plan.split}")  # noqa: S311 - must be reproducible
    maker = _Maker(draw_sources(own, rng), folder, rng)
    found = [
        maker.single(kind, strength) for kind in plan.kinds for strength in STRENGTHS for _ in range(plan.per_cell)
    ]
    found += [maker.copy(strength) for strength in STRENGTHS for _ in range(plan.copies)]
    found += [
        maker.composed(kind, count, strength)
        for count, kind in enumerate(COMPOSED, start=2)
        for strength in STRENGTHS
        for _ in range(plan.composed)
    ]
    found += [*_foreign(plan.split), *(_noise(number, rng) for number in range(plan.noise))]
    return [*found, *_reconstructions(plan, own, folder)]


@dataclass
class _Maker:
    draw: Iterator[Work]
    folder: Path
    rng: random.Random

    def single(self, kind: str, strength: int) -> Query:
        work, image = self._next()
        derived = derive(kind, strength, [image], self.rng)
        if sum(ImageStat.Stat(derived).stddev) / 3 < _MIN_CONTRAST:
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

    def _next(self) -> tuple[Work, Image.Image]:
        work = next(self.draw)
        return work, decode_image((self.folder / work.file_name).read_bytes())


def _again(image: Image.Image, strength: int) -> Image.Image:
    """1 the same pixels, 2 JPEG of quality 85, 3 WebP of quality 60, 4 three quarters of the size."""
    if strength == 1:
        return image
    if strength == 4:
        return image.resize((round(image.width * 0.75), round(image.height * 0.75)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if strength == 2 else "WEBP", quality=85 if strength == 2 else 60)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _foreign(split: str) -> Iterator[Query]:
    folder = sample_folder("foreign")
    for row in read_foreign(folder):
        if row.split == split:
            image = decode_image((folder / row.file_name).read_bytes())
            yield Query(row.kind, 0, (), f"{row.kind}/{row.group}", image)


def _noise(number: int, rng: random.Random) -> Query:
    """White noise, coloured clouds, a gradient or stripes."""
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
    """By an autoencoder that was trained on all works of the split."""
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
