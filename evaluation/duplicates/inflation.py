"""Inflation benchmark: what 25 near-duplicates of a work earn those who add them.

The copies pass through the real index, grouping, rights and valuation.
"""

from __future__ import annotations

import asyncio
import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from evaluation.duplicates.threshold import KINDS, LEVELS, near_copy
from evaluation.images.recipes import STRENGTHS, TEST_OWNERS, derive
from evaluation.images.sample import Work, draw_sources, read_works
from evaluation.known_source.observations import embed, index_sample
from evaluation.known_source.queries import SINGLE_KINDS, Query
from gmvaluator.accounts import owner_account
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.processes import run_command
from gmvaluator.ids import GenerationId, OwnerId
from gmvaluator.images import decode_image
from gmvaluator.index.opening import open_search
from gmvaluator.index.schema import KEY_GROUP, duplicate_group
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import CandidateSearch, Embeddings, Float32Array, RightsReader
from gmvaluator.profile import ProfileIdentity
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import MILLION, distance_millionths

SEED = 771
DATA_SET = "openclipart"
_FACTS = ImageFacts("0" * 64, 256, 256, 1)


@dataclass(frozen=True, slots=True)
class Target:
    """A work that is copied: by its owner, or by somebody else, whom the copies' manifest names as `adder`."""

    work: Work
    by_owner: bool

    @property
    def adder(self) -> str:
        return self.work.owner_id if self.by_owner else f"copier-of-{self.work.owner_id}"


@dataclass(frozen=True, slots=True)
class Earned:
    """Micro-credits on the derivatives of one target.

    before, after: the adder's, without and with the copies. owner_before: the owner's, against which inflation is
    measured.
    """

    target: Target
    before: int
    after: int
    owner_before: int

    @property
    def inflation(self) -> float:
        """The rise of the adder's earnings, relative to what the work's owner earned before."""
        return (self.after - self.before) / max(self.owner_before, 1)


def targets(count: int) -> list[Target]:
    """Return works of test artists, copied by their owners and by others in turn."""
    works = [work for work in read_works(sample_folder(DATA_SET)).values() if work.owner_id in TEST_OWNERS]
    draw = draw_sources(works, random.Random(SEED))  # noqa: S311 - must be reproducible
    return [Target(next(draw), place % 2 == 0) for place in range(count)]


def measure(
    folder: Path, profile: str, policies: Sequence[Policy], count: int, strengths: int, among: int | None = None
) -> list[list[Earned]]:
    """Return for each policy what every target's copies earned.

    folder: an empty one, for indexes and copies. strengths: how many of the recipes' strengths are queried. among:
    index only the targets and this many works of the sample; None indexes all.
    """
    chosen = targets(count)
    models = load_models(profile)
    queries = [query for place, target in enumerate(chosen) for query in _derivatives(target, place, strengths)]
    embeddings = embed(models, queries)
    if among is None:
        index_sample(folder / "data", profile)
    else:
        _index_some(folder, profile, [target.work for target in chosen], among)
    before = _postings(folder / "data", models.identity, policies, embeddings)
    _write_copies(folder / "copies", chosen)
    run_command("index", "add", str(folder / "copies"), "--data-set", DATA_SET, "--data", str(folder / "data"),
                "--profile", profile)  # fmt: skip
    after = _postings(folder / "data", models.identity, policies, embeddings)
    each = len(queries) // len(chosen)
    owners = _owner_ids(folder / "data", chosen)
    return [
        [
            _earned(target, owners, was[place * each : (place + 1) * each], now[place * each : (place + 1) * each])
            for place, target in enumerate(chosen)
        ]
        for was, now in zip(before, after, strict=True)
    ]


def _derivatives(target: Target, place: int, strengths: int) -> list[Query]:
    rng = random.Random(f"{SEED}/{place}")  # noqa: S311 - must be reproducible
    image = _image(target.work)
    return [
        Query(kind, strength, ((target.work.key, 1.0),), target.work.owner_id, derive(kind, strength, [image], rng))
        for kind in SINGLE_KINDS
        for strength in STRENGTHS[:strengths]
    ]


def _index_some(folder: Path, profile: str, targets: Sequence[Work], among: int) -> None:
    """Index the targets and the first `among` works of the sample."""
    sample = sample_folder(DATA_SET)
    some = {work.key: work for work in [*list(read_works(sample).values())[:among], *targets]}
    (folder / DATA_SET).mkdir()
    with (folder / DATA_SET / "manifest.csv").open("w", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["key", "file_name", "owner_id"])
        for place, work in enumerate(some.values()):
            name = f"{place}{Path(work.file_name).suffix}"
            (folder / DATA_SET / name).write_bytes((sample / work.file_name).read_bytes())
            rows.writerow([work.key, name, work.owner_id])
    run_command("index", "add", str(folder / DATA_SET), "--data", str(folder / "data"), "--profile", profile)


def _image(work: Work) -> Image.Image:
    return decode_image((sample_folder(DATA_SET) / work.file_name).read_bytes())


def _write_copies(folder: Path, chosen: Sequence[Target]) -> None:
    folder.mkdir()
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["key", "file_name", "owner_id", "author"])
        for place, target in enumerate(chosen):
            image = _image(target.work)
            for kind in KINDS:
                for level in range(LEVELS):
                    name = f"{place}-{kind}-{level}.png"
                    near_copy(image, kind, level).save(folder / name)
                    rows.writerow([name, name, target.adder, target.adder])


def _postings(
    data: Path, identity: ProfileIdentity, policies: Sequence[Policy], embeddings: Embeddings
) -> list[list[dict[str, int]]]:
    """Return for each policy and query the micro-credits by account."""
    with open_catalogue(data) as catalogue:
        return asyncio.run(_all_postings(data, identity, policies, embeddings, catalogue))


async def _all_postings(
    data: Path, identity: ProfileIdentity, policies: Sequence[Policy], embeddings: Embeddings, rights: RightsReader
) -> list[list[dict[str, int]]]:
    search = open_search(data / "index", payload_keys=(KEY_GROUP,))
    earned: list[list[dict[str, int]]] = [[] for _ in policies]
    try:
        for recall, perceptual in zip(embeddings.recall, embeddings.perceptual, strict=True):
            scored = await _scored(search, recall, perceptual, max(policy.depth for policy in policies))
            now = datetime.now(UTC)
            cards = rights.works([target.training_image_id for target in scored], now)
            valued = ValuedImage(
                "local", GenerationId("q"), now, _FACTS, "evaluated", "works", identity, quality_millionths=MILLION
            )
            for sums, policy in zip(earned, policies, strict=True):
                sums.append(build_posting(valued, policy, scored, cards).sums)
    finally:
        await search.close()
    return earned


async def _scored(
    search: CandidateSearch, recall: Float32Array, perceptual: Float32Array, depth: int
) -> list[ScoredCandidate]:
    recalled = {target.training_image_id: target for target in await search.recall(recall, depth)}
    return [
        ScoredCandidate(
            target.training_image_id,
            distance_millionths(target.perceptual_distance),
            round(recalled[target.training_image_id].clip_similarity * MILLION),
            duplicate_group(recalled[target.training_image_id].payload),
        )
        for target in await search.rerank(perceptual, list(recalled), depth)
    ]


def _owner_ids(data: Path, chosen: Sequence[Target]) -> dict[str, OwnerId]:
    with open_catalogue(data) as catalogue:
        names = {target.work.owner_id for target in chosen} | {target.adder for target in chosen}
        return {name: catalogue.owner_of_manifest_id(name) for name in names}


def _earned(
    target: Target, owners: dict[str, OwnerId], before: Sequence[dict[str, int]], after: Sequence[dict[str, int]]
) -> Earned:
    adder, owner = owner_account(owners[target.adder]), owner_account(owners[target.work.owner_id])
    return Earned(
        target,
        sum(sums.get(adder, 0) for sums in before),
        sum(sums.get(adder, 0) for sums in after),
        sum(sums.get(owner, 0) for sums in before),
    )
