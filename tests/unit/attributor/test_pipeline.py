"""The pipeline on fakes and a real ledger: stages, postings, errors and cancellation."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attributor.core.attribution import Attribution, ImageRequest, Stage
from attributor.core.clock import LedgerClock, newest_time
from attributor.core.pipeline import Pipeline
from attributor.workers.decoder_pool import EncodedImage
from attributor.workers.model_worker import ModelWorker
from gmvaluator.errors import (
    Failure,
    GenerationConflict,
    IndexUnavailable,
    InvalidImage,
    InvalidInput,
    InvalidPolicy,
    ModelFailed,
    PreconditionFailed,
    Unavailable,
    UnknownGenerator,
)
from gmvaluator.ids import GenerationId, TrainingImageId, new_owner_id, sha256_hex, training_image_id
from gmvaluator.ledger import writer
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.records import NewPosting
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.ports import Candidate, CandidateSearch, Float32Array, Generator, Neighbour, Point, Prepared, WorkCard
from gmvaluator.testing.index import MemoryIndex, MemorySearch, MemoryStore
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels
from gmvaluator.testing.postings import FakeRights
from tests.support.decoders import ThreadDecoder

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
WORKS = 80


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def work_id(seed: int) -> TrainingImageId:
    return training_image_id(sha256_hex(f"work {seed}".encode()))


OWNERS = {work_id(seed): new_owner_id() for seed in range(WORKS)}


@dataclass
class OneCollection:
    """Returns the same search for every name."""

    candidates: CandidateSearch

    async def search(self, collection: str) -> CandidateSearch:
        return self.candidates

    async def measured_recall(self, collection: str) -> float | None:
        return 0.98


class HeldRerank(MemorySearch):
    """Re-ranks once `gate` is set."""

    def __init__(self, index: MemoryIndex) -> None:
        super().__init__(index)
        self.gate = asyncio.Event()

    async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        await self.gate.wait()
        return await super().rerank(vectors, ids, k)


@dataclass
class Bench:
    """A pipeline and the parts behind it."""

    pipeline: Pipeline
    ledger: Ledger
    models: FakeModels
    collections: OneCollection

    def register(self, generator: Generator) -> None:
        """Let the pipeline know this generator alone."""
        self.pipeline = replace(self.pipeline, rights=FakeRights.with_owners([generator], OWNERS))

    async def stages(self, request: ImageRequest) -> list[Attribution]:
        return [stage async for stage in self.pipeline.attribute(request)]


def request(seed: int = 0, generation: str = "g1", model_version: str = "demo") -> ImageRequest:
    image = EncodedImage.parse(png(picture(seed)))
    return ImageRequest("local", GenerationId(generation), model_version, image, NOW)


def filled_index() -> MemoryIndex:
    index = MemoryIndex()
    store = MemoryStore(index)
    store.create(FAKE_IDENTITY)
    models = FakeModels()
    rows = models.embed_works([models.prepare_work(picture(seed)) for seed in range(WORKS)])
    payloads = [{"key": f"work {seed}", "title": "", "data_set": ["set"]} for seed in range(WORKS)]
    vectors = zip(range(WORKS), rows.recall, rows.perceptual, payloads, strict=True)
    store.upsert([Point(work_id(seed), recall, perceptual, payload) for seed, recall, perceptual, payload in vectors])
    return index


@pytest.fixture(params=[False, True], ids=["quality with embedding", "quality of its own"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        models = FakeModels(separate_quality=request.param)
        worker = ModelWorker(lambda: models)
        worker.start()
        stack.callback(worker.close)
        commits = LedgerWriter(lambda: open_ledger(tmp_path, write=True), lambda error: None)
        commits.start()
        stack.callback(commits.close)
        ledger = stack.enter_context(open_ledger(tmp_path))
        rights = FakeRights.with_owners([Generator("demo", "works", ("set",), "paper@1")], OWNERS)
        collections = OneCollection(MemorySearch(filled_index()))
        executor = stack.enter_context(ThreadPoolExecutor(2))
        decoder = ThreadDecoder(executor, models.prepare)
        pipeline = Pipeline(worker, decoder, collections, rights, ledger, commits, executor)
        yield Bench(pipeline, ledger, models, collections)


async def test_stages_lead_to_one_posting(bench: Bench) -> None:
    recalled, reranked, final = await bench.stages(request(7))
    assert [recalled.stage, reranked.stage, final.stage] == [Stage.RECALLED, Stage.RERANKED, Stage.FINAL]
    assert final.sequence == 1
    assert final.contributors[0].training_image_id == work_id(7)
    assert final.contributors[0].perceptual_distance == 0
    assert sum(contributor.credit_micros or 0 for contributor in final.contributors) == final.issued_micros
    totals = bench.ledger.totals()
    assert (totals.issued_micros, totals.reconciles) == (final.issued_micros, True)


@pytest.mark.parametrize("bench", [False], indirect=True)
@pytest.mark.parametrize(
    ("policy", "problem"),
    [("paper@1", ""), ("calibrated@2", "was fitted to profile"), ("absent@1", "generator demo cannot be valued")],
)
async def test_policy_of_another_profile_is_a_problem_before_any_image(bench: Bench, policy: str, problem: str) -> None:
    found = bench.pipeline.policy_problem(Generator("demo", "works", ("set",), policy))
    assert problem in found
    assert bool(found) == bool(problem)


async def test_provisional_credits_do_not_wait_for_re_ranking(bench: Bench) -> None:
    bench.collections.candidates = held = HeldRerank(filled_index())
    stages = bench.pipeline.attribute(request(7))
    async with asyncio.timeout(10):
        assert (await anext(stages)).stage is Stage.RECALLED
    held.gate.set()
    assert [stage.stage async for stage in stages] == [Stage.RERANKED, Stage.FINAL]


@pytest.mark.parametrize("bench", [True], indirect=True, ids=["quality of its own"])
async def test_only_the_final_credits_wait_for_quality(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, scored = threading.Event(), bench.models.quality_slice
    monkeypatch.setattr(bench.models, "quality_slice", lambda inputs: scored(inputs) if gate.wait(10) else None)
    stages = bench.pipeline.attribute(request(7))
    async with asyncio.timeout(5):
        assert [(await anext(stages)).stage for _ in range(2)] == [Stage.RECALLED, Stage.RERANKED]
    gate.set()
    assert [stage.stage async for stage in stages] == [Stage.FINAL]


PARTS = """
policy = "parts@1"
depth = 50
k = 10
temperature = "0.02"
residual = { distance = "0.3" }
[parts]
windows = { temperature = "0.02", distance = "0.3" }
verified = { bias = "-1", slope = "1" }
elsewhere = { bias = "-4", slope = "-1" }
"""


@pytest.mark.parametrize("bench", [False], indirect=True, ids=["quality with embedding"])
async def test_parts_are_prepared_only_for_a_policy_that_counts_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "parts@1.toml").write_text(PARTS, encoding="utf-8")
    bench.pipeline = replace(bench.pipeline, policies=tmp_path)
    looked_at, prepare = [], bench.models.prepare

    def recorded(image: Image.Image, parts: bool = True) -> Prepared:
        looked_at.append(parts)
        return prepare(image, parts)

    monkeypatch.setattr(bench.pipeline.decoder, "_prepare", recorded)
    for policy in ("paper@1", "parts@1"):
        previewed = replace(request(), policy=policy)
        assert [stage.policy async for stage in bench.pipeline.preview(previewed)] == [policy] * 3
    assert looked_at == [False, True]


async def test_the_same_request_again_touches_no_model(bench: Bench) -> None:
    await bench.stages(request())
    batches = list(bench.models.batches)
    (again,) = await bench.stages(request())
    assert again.replayed
    assert bench.models.batches == batches
    assert bench.ledger.totals().postings == 1


async def test_a_hundred_concurrent_repeats_leave_one_posting(bench: Bench) -> None:
    runs = await asyncio.gather(*(bench.stages(request()) for _ in range(100)))
    assert {run[-1].sequence for run in runs} == {1}
    assert sum(not run[-1].replayed for run in runs) == 1
    assert bench.ledger.totals().postings == 1


async def test_batching_changes_no_credit(bench: Bench) -> None:
    together = await asyncio.gather(*(bench.stages(request(seed, f"a{seed}")) for seed in range(20)))
    alone = [await bench.stages(request(seed, f"b{seed}")) for seed in range(20)]
    for batched, single in zip(together, alone, strict=True):
        assert [work.credit_micros for work in batched[-1].contributors] == [
            work.credit_micros for work in single[-1].contributors
        ]


async def test_another_image_or_generator_under_a_used_id_is_refused(bench: Bench) -> None:
    await bench.stages(request())
    with pytest.raises(GenerationConflict, match="image_sha256"):
        await bench.stages(request(seed=1))
    with pytest.raises(GenerationConflict, match="model_version"):
        await bench.stages(request(model_version="other"))
    assert bench.ledger.totals().postings == 1


async def test_a_preview_posts_nothing(bench: Bench) -> None:
    stages = [stage async for stage in bench.pipeline.preview(request())]
    assert stages[-1].stage is Stage.FINAL
    assert stages[-1].sequence is None
    assert bench.ledger.totals().postings == 0


async def test_an_empty_index_pays_all_to_unattributed(bench: Bench) -> None:
    empty = MemoryIndex()
    MemoryStore(empty).create(FAKE_IDENTITY)
    bench.collections.candidates = MemorySearch(empty)
    final = (await bench.stages(request()))[-1]
    totals = bench.ledger.totals()
    assert final.contributors == ()
    assert final.unattributed_micros == final.issued_micros == totals.unattributed_micros > 0


async def test_works_of_other_data_sets_are_not_paid(bench: Bench) -> None:
    bench.register(Generator("demo", "works", ("elsewhere",), "paper@1"))
    final = (await bench.stages(request()))[-1]
    assert final.contributors == ()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"image": EncodedImage.parse(b"no image")}, InvalidImage), ({"model_version": "nobody"}, UnknownGenerator)],
)
async def test_a_refused_request_posts_nothing(bench: Bench, wrong: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        await bench.stages(replace(request(), **wrong))  # type: ignore[arg-type]
    assert bench.ledger.totals().postings == 0


async def test_a_failing_model_posts_nothing(bench: Bench) -> None:
    def fail(inputs: Float32Array) -> None:
        raise RuntimeError("out of luck")

    bench.models.on_batch = fail
    with pytest.raises(ModelFailed):
        await bench.stages(request())
    assert bench.ledger.totals().postings == 0


async def test_no_credit_comes_from_a_partial_answer_of_the_index(bench: Bench) -> None:
    class Cut(MemorySearch):
        async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
            raise IndexUnavailable("cut")

    bench.collections.candidates = Cut(filled_index())
    with pytest.raises(IndexUnavailable):
        await bench.stages(request())
    assert bench.ledger.totals().postings == 0


async def test_a_caller_that_leaves_before_the_posting_leaves_nothing(bench: Bench) -> None:
    started, gate = threading.Event(), threading.Event()

    def wait(inputs: Float32Array) -> None:
        started.set()
        gate.wait(10)

    bench.models.on_batch = wait
    task = asyncio.create_task(bench.stages(request()))
    assert await asyncio.to_thread(started.wait, 10)
    task.cancel()
    gate.set()
    await asyncio.gather(task, return_exceptions=True)
    # A later image passes through the same threads, so whatever the first one had left behind would come before it.
    await bench.stages(request(1, "later"))
    assert bench.ledger.totals().postings == 1
    assert bench.ledger.find("local", GenerationId("g1")) is None


async def test_a_caller_that_leaves_during_the_posting_leaves_it_whole(bench: Bench) -> None:
    started, gate, posted = asyncio.Event(), asyncio.Event(), asyncio.Event()
    writer = bench.pipeline.writer

    class Slow:
        async def post(self, posting: NewPosting) -> Posted | Replayed:
            started.set()
            await gate.wait()
            outcome = await writer.post(posting)
            posted.set()
            return outcome

    bench.pipeline = replace(bench.pipeline, writer=Slow())
    task = asyncio.create_task(bench.stages(request()))
    await asyncio.wait_for(started.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate.set()
    await asyncio.wait_for(posted.wait(), 10)
    totals = bench.ledger.totals()
    assert (totals.postings, totals.reconciles) == (1, True)
    assert bench.ledger.verify().ok


async def test_rights_are_judged_at_the_time_of_generation(bench: Bench) -> None:
    times: list[datetime] = []

    class Noting(FakeRights):
        def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
            times.append(at)
            return super().works(ids, at)

    bench.pipeline = replace(bench.pipeline, rights=Noting([Generator("demo", "works", ("set",), "paper@1")]))
    earlier = datetime(2025, 6, 1, tzinfo=UTC)
    await bench.stages(replace(request(), generated_at=earlier))
    await bench.stages(replace(request(), generated_at=NOW))
    assert set(times) == {earlier}


async def test_numbers_that_cannot_be_valued_are_our_fault_not_the_callers(bench: Bench) -> None:
    class Impossible(MemorySearch):
        async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
            return [Neighbour(ids[0], float("nan"))]

    bench.collections.candidates = Impossible(filled_index())
    with pytest.raises(ModelFailed):
        await bench.stages(request())
    assert bench.ledger.totals().postings == 0


@pytest.mark.parametrize(
    "error",
    [InvalidImage("a work's thumbnail is empty"), InvalidInput("the index answered INVALID_ARGUMENT: dimension 3")],
)
async def test_what_is_wrong_with_thumbnails_or_the_index_is_our_fault_not_the_callers(
    bench: Bench, error: InvalidInput
) -> None:
    class Wrong(MemorySearch):
        async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
            raise error

    bench.collections.candidates = Wrong(filled_index())
    with pytest.raises(ModelFailed, match=str(error)):
        await bench.stages(request())
    assert bench.ledger.totals().postings == 0


async def test_an_image_is_not_blamed_for_a_clock_that_is_behind_the_ledger(bench: Bench) -> None:
    await bench.stages(request(1))
    year_back = datetime.now(UTC) - timedelta(days=365)
    clock = LedgerClock(partial(newest_time, bench.ledger), lambda: year_back)
    bench.pipeline = replace(bench.pipeline, clock=clock)
    with pytest.raises(Unavailable, match="NTP"):
        await bench.stages(request(2, "g2"))
    assert [stage.replayed for stage in await bench.stages(request(1))] == [True]
    assert bench.ledger.totals().postings == 1


async def test_what_the_ledger_refuses_is_our_fault_not_the_callers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_ENTRIES", 1)
    with pytest.raises(Failure, match="entries"):
        await bench.stages(request())


async def test_a_policy_that_cannot_be_used_is_the_fault_of_who_chose_it(bench: Bench) -> None:
    bench.register(Generator("demo", "works", ("set",), "missing@1"))
    with pytest.raises(PreconditionFailed, match="demo"):
        await bench.stages(request())
    bench.register(Generator("demo", "works", ("set",), "paper@1"))
    with pytest.raises(InvalidPolicy):
        _ = [stage async for stage in bench.pipeline.preview(replace(request(), policy="missing@1"))]


async def test_candidates_in_any_order_give_the_same_credits(bench: Bench) -> None:
    class Shuffled(MemorySearch):
        async def recall(
            self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None
        ) -> list[Candidate]:
            return (await super().recall(vector, depth, data_sets))[::-1]

    straight = (await bench.stages(request(3, "a")))[-1]
    bench.collections.candidates = Shuffled(filled_index())
    assert (await bench.stages(request(3, "b")))[-1].contributors == straight.contributors


class Keeper:
    """Records each image it is given, with the ledger's sequence at that time."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.kept: list[tuple[str, int]] = []

    def keep(self, sha256: str, thumbnail: bytes) -> None:
        assert thumbnail[8:12] == b"WEBP"
        self.kept.append((sha256, self.ledger.head().sequence))


async def test_only_what_is_posted_is_kept_and_before_anybody_sees_it(bench: Bench) -> None:
    keeper = Keeper(bench.ledger)
    bench.pipeline = replace(bench.pipeline, keeper=keeper)
    assert [stage async for stage in bench.pipeline.preview(request(1))]
    assert keeper.kept == []
    await bench.stages(request(1))
    await bench.stages(request(1))
    assert keeper.kept == [(request(1).image_sha256, 0)]


async def test_nothing_is_kept_unless_it_is_wanted(bench: Bench) -> None:
    assert bench.pipeline.keeper is None
    image = request(1).image
    assert image is not None
    assert (await bench.pipeline.decoder.decode(image)).thumbnail is None
