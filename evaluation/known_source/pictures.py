"""Galleries: an image, and the works that were credited for it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from evaluation.known_source import measures
from evaluation.known_source.observed import Observation
from evaluation.known_source.rows import Divided, Division
from evaluation.make_examples import read_works
from evaluation.sections import Gallery, Tile
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

ROWS = 6
CREDITED = 5


def gallery(divided: Divided, *, best: bool) -> Gallery:
    """Derivatives whose source got most, or least, one of each recipe where there are enough."""
    rows = measures.rows_of(divided.observations, measures.is_single)
    order = rows[np.argsort(divided.to_sources[rows])]
    chosen = _spread([divided.observations[row] for row in (order[::-1] if best else order)])
    places = {id(one): row for row, one in enumerate(divided.observations)}
    files = _files()
    return Gallery(
        f"{'Most' if best else 'Least'} credit to the true source: the image, its source, and who was credited.",
        [_row(one, divided.divisions[places[id(one)]], files) for one in chosen],
    )


def _spread(ordered: list[Observation]) -> list[Observation]:
    seen: dict[str, Observation] = {}
    for one in ordered:
        seen.setdefault(one.query.kind, one)
    return list(seen.values())[:ROWS]


def _row(one: Observation, division: Division, files: dict[TrainingImageId, str]) -> list[Tile]:
    source = next(iter(one.sources))
    query = Tile(
        one.query.image, f"{one.query.kind}, strength {one.query.strength}; {division.unattributed:.0%} to nobody"
    )
    nearest = sorted(division.shares, key=lambda work: -division.shares[work])[:CREDITED]
    return [
        query,
        Tile(_picture(files[source]), f"source: {division.shares.get(source, 0):.0%}"),
        *(Tile(_picture(files[work]), f"{division.shares[work]:.0%}") for work in nearest),
    ]


def _files() -> dict[TrainingImageId, str]:
    works = read_works(sample_folder("openclipart")).values()
    return {training_image_id(work.sha256): work.file_name for work in works}


def _picture(file_name: str) -> Image.Image:
    return decode_image((sample_folder("openclipart") / file_name).read_bytes())
