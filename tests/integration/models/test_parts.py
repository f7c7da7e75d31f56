"""Images that show parts of works, ranked and valued with the models of profile `lite` and the shipped policy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from attributor.core.loop_fairness import LoopScheduler
from attributor.core.ranking import Ranking, Reranked
from attributor.workers.model_worker import Features
from evaluation.images.sample import Work, read_foreign, read_works
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.images import decode_image
from gmvaluator.ledger.allocation import Ownership, allocate, parts_of
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Models, Point
from gmvaluator.samples import sample_folder
from gmvaluator.testing.index import MemoryIndex, MemorySearch, MemoryStore, with_local_features
from gmvaluator.valuation.policy import Policy, load_policy

SAMPLE = sample_folder("openclipart")
WORKS = 24
POLICY = load_policy("calibrated@3")


def picture(work: Work) -> Image.Image:
    return ImageOps.pad(decode_image((SAMPLE / work.file_name).read_bytes()), (256, 256), color=(255, 255, 255))


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("lite")


@pytest.fixture(scope="module")
def works() -> list[Work]:
    """Works that have enough detail to be verified, each of another artist where there are enough."""
    every = list(read_works(SAMPLE).values())
    return every[:: len(every) // WORKS][:WORKS]


@pytest.fixture(scope="module")
def index(models: Models, works: list[Work]) -> MemoryIndex:
    index = MemoryIndex()
    store = MemoryStore(index)
    store.create(models.identity)
    prepared = [models.prepare_work(picture(work)) for work in works]
    embeddings = models.embed_works(prepared)
    points = [
        Point(training_image_id(work.sha256), recall, perceptual, {"key": work.key, "data_set": ["set"]})
        for work, recall, perceptual in zip(works, embeddings.recall, embeddings.perceptual, strict=True)
    ]
    features = [views[0].local for views in prepared]
    store.upsert([with_local_features(point, local) for point, local in zip(points, features, strict=True) if local])
    return index


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def ranked(
    models: Models, index: MemoryIndex, image: Image.Image, policy: Policy, executor: ThreadPoolExecutor
) -> Reranked:
    async def measured_recall() -> None:
        return None

    async def rank() -> Reranked:
        prepared = models.prepare(image)
        embeddings = models.embed([prepared])
        assert embeddings.windows is not None
        features = Features(embeddings.recall[0], embeddings.perceptual[0], None, 0.0, 0.0, embeddings.windows[0])
        scheduler = LoopScheduler()
        ranking = Ranking(MemorySearch(index), policy, features, prepared.local, executor, scheduler, measured_recall)
        return await ranking.rerank(await ranking.recall(["set"]))

    return asyncio.run(rank())


def shares(reranked: Reranked) -> tuple[Mapping[TrainingImageId, float], float]:
    distances = [group.distance_millionths for group in reranked.paid]
    fractions, unattributed = POLICY.shares(distances, parts_of(reranked.paid, reranked.content))
    return dict(zip((group.name for group in reranked.paid), fractions, strict=True)), unattributed


def collage(works: list[Work]) -> Image.Image:
    image = Image.new("RGB", (512, 512))
    for number, work in enumerate(works):
        image.paste(picture(work), (256 * (number % 2), 256 * (number // 2)))
    return image


def test_four_works_in_one_image_are_all_paid(
    models: Models, index: MemoryIndex, works: list[Work], executor: ThreadPoolExecutor
) -> None:
    by_work, _ = shares(ranked(models, index, collage(works[4:8]), POLICY, executor))
    parts = [by_work[training_image_id(work.sha256)] for work in works[4:8]]
    assert min(parts) > 0.08
    assert sum(parts) > 0.85


def test_a_policy_of_whole_images_looks_at_no_parts(
    models: Models, index: MemoryIndex, works: list[Work], executor: ThreadPoolExecutor
) -> None:
    reranked = ranked(models, index, collage(works[4:8]), load_policy("paper@1"), executor)
    assert reranked.content is None
    assert not any(candidate.sighting.window or candidate.sighting.inliers for candidate in reranked.scored)


def test_a_photograph_shows_no_work(models: Models, index: MemoryIndex, executor: ThreadPoolExecutor) -> None:
    folder = sample_folder("foreign")
    row = next(row for row in read_foreign(folder) if row.kind == "photo")
    image = decode_image((folder / row.file_name).read_bytes())
    reranked = ranked(models, index, image, POLICY, executor)
    assert not any(candidate.sighting.inliers for candidate in reranked.scored)
    assert shares(reranked)[1] > 0.5


@pytest.mark.parametrize("size", [(16, 16), (900, 17), (3_000, 2_000)])
def test_images_of_any_size_are_examined(
    models: Models, index: MemoryIndex, executor: ThreadPoolExecutor, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for image in (Image.fromarray(pixels), Image.new("RGB", size, (255, 255, 255))):
        by_work, unattributed = shares(ranked(models, index, image, POLICY, executor))
        assert sum(by_work.values()) + unattributed == pytest.approx(1)


def test_the_posted_evidence_gives_the_same_credits_again(
    models: Models, index: MemoryIndex, works: list[Work], executor: ThreadPoolExecutor
) -> None:
    reranked = ranked(models, index, collage(works[:4]), POLICY, executor)
    owned = {candidate.training_image_id: Ownership((("suspense", 1_000_000),), None) for candidate in reranked.scored}
    first, second = (
        allocate(POLICY, candidates, owned, 900_000, content=reranked.content)
        for candidates in (reranked.scored, reranked.scored[::-1])
    )
    assert first.contributions == second.contributions
    assert sum(row.credit_micros for row in first.contributions) + first.value.unattributed_micros == 900_000
