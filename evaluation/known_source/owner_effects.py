"""Effects on owners: what the quality factor moves between them, and galleries of images with the works credited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from evaluation.images.sample import read_works
from evaluation.known_source import measures
from evaluation.known_source.observations import Observation
from evaluation.known_source.policies import PolicyShares, Shares, by_policy
from evaluation.report.sections import Gallery, Table, Tile
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION, quality_millionths

Totals = Mapping[str, float]

WAYS = (("off", MILLION, MILLION), ("capped", 500_000, 800_000), ("on", 0, MILLION))
"""Name, and the range in millionths within which quality counts; `off` issues one credit an image at any quality."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference that one way to count quality makes, compared with `on`.

    issued: credits an image. moved: share of the owners' credit that goes to another owner. largest: largest relative
    change of an owner's part, among owners with at least 1 % of the credit.
    """

    way: str
    issued: float
    moved: float
    largest: float


def quality_effects(policy: Policy, observations: Sequence[Observation]) -> list[Effect]:
    """Return the effect of each of `WAYS`."""
    owners = _owners()
    totals = {
        way: _totals(replace(policy, quality_floor=floor, quality_cap=cap), observations, owners)
        for way, floor, cap in WAYS
    }
    before = _parts(totals["on"][1])
    return [_effect(way, *totals[way], before, len(observations)) for way, _, _ in WAYS]


def quality_table(effects: Sequence[Effect]) -> Table:
    """Return the effects as a table of the report."""
    return Table(
        "Quality on, off, or counted from 0.5 to 0.8 only: credits an image issues, and what it moves between owners",
        ("quality", "issued an image", "moved between owners", "largest change of an owner's part"),
        [[effect.way, effect.issued, f"{effect.moved:.2%}", f"{effect.largest:.1%}"] for effect in effects],
    )


def quality_figures(effects: Sequence[Effect]) -> dict[str, float]:
    """Return the share of credit that each way except the paper's moves between owners."""
    return {f"quality_{effect.way}_moved_share": round(effect.moved, 4) for effect in effects if effect.way != "on"}


def _owners() -> dict[str, str]:
    works = read_works(sample_folder("openclipart")).values()
    return {str(training_image_id(work.sha256)): work.owner_id for work in works}


def _totals(
    policy: Policy, observations: Sequence[Observation], owners: Mapping[str, str]
) -> tuple[int, dict[str, float]]:
    """Return the micro-credits issued, and what each owner receives of them."""
    issued, totals = 0, dict.fromkeys(sorted(set(owners.values())), 0.0)
    divide = by_policy(policy).divide
    for observation in observations:
        micros = policy.value([], [], quality_millionths(observation.retrieval.quality)).issued_micros
        issued += micros
        for work, share in divide(observation.retrieval).shares.items():
            totals[owners[str(work)]] += share * micros
    return issued, totals


def _parts(totals: Totals) -> dict[str, float]:
    whole = sum(totals.values()) or 1.0
    return {owner: total / whole for owner, total in totals.items()}


def _effect(way: str, issued: int, totals: Totals, before: Totals, images: int) -> Effect:
    after = _parts(totals)
    moved = sum(abs(after[owner] - before[owner]) for owner in before) / 2
    largest = max((abs(after[owner] / part - 1) for owner, part in before.items() if part >= 0.01), default=0.0)
    return Effect(way, issued / MILLION / images, moved, largest)


ROWS = 6
CREDITED = 5


def gallery(divided: PolicyShares, *, best: bool) -> Gallery:
    """Return the derivatives whose source got most, or least, one of each recipe where there are enough."""
    rows = measures.rows_of(divided.observations, measures.is_single)
    order = rows[np.argsort(divided.to_sources[rows])]
    chosen = _spread([divided.observations[row] for row in (order[::-1] if best else order)])
    places = {id(observation): row for row, observation in enumerate(divided.observations)}
    files = _files()
    return Gallery(
        f"{'Most' if best else 'Least'} credit to the true source: the image, its source, and who was credited.",
        [_row(example, divided.divisions[places[id(example)]], files) for example in chosen],
    )


def _spread(ordered: list[Observation]) -> list[Observation]:
    seen: dict[str, Observation] = {}
    for observation in ordered:
        seen.setdefault(observation.query.kind, observation)
    return list(seen.values())[:ROWS]


def _row(observation: Observation, division: Shares, files: dict[TrainingImageId, str]) -> list[Tile]:
    source = next(iter(observation.sources))
    query = Tile(
        observation.query.image,
        f"{observation.query.kind}, strength {observation.query.strength}; {division.unattributed:.0%} unattributed",
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
