"""Models in a child process: the same results as in this process, and a replacement for one that dies."""

import asyncio
import contextlib
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from PIL import Image

from attributor.workers.model_process import ModelProcess
from attributor.workers.model_worker import ModelWorker
from gmvaluator.errors import ModelFailed, Unavailable, UnknownProfile
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Prepared
from gmvaluator.testing.stub_models import SIDE_PX


def inputs(count: int) -> list[Prepared]:
    rows = np.random.default_rng(count).random((count, 3, SIDE_PX, SIDE_PX), np.float32)
    return [Prepared.shared(row) for row in rows]


def plain(value: float) -> Prepared:
    return Prepared.shared(np.full((3, SIDE_PX, SIDE_PX), value, np.float32))


@contextlib.contextmanager
def process(profile: str = "stub") -> Iterator[ModelProcess]:
    models = ModelProcess(profile)
    try:
        yield models
    finally:
        models.close()


def test_results_equal_those_of_this_process_in_batches_of_any_size() -> None:
    own = load_models("stub")
    with process() as apart:
        assert apart.identity == own.identity
        for count in (1, 7, 3, 32):
            mine, theirs = own.embed(inputs(count)), apart.embed(inputs(count))
            assert np.array_equal(mine.recall, theirs.recall)
            assert np.array_equal(mine.perceptual, theirs.perceptual)
            assert mine.quality is not None
            assert np.array_equal(mine.quality, apart.quality(inputs(count)))
        image = Image.new("RGB", (40, 30), "teal")
        assert np.array_equal(own.prepare(image).recall, apart.prepare(image).recall)


def test_slices_of_quality_equal_those_of_this_process() -> None:
    own = load_models("stub:apart=1")
    with process("stub:apart=1") as apart:
        assert list(apart.quality_slice(inputs(3))) == list(own.quality_slice(inputs(3)))


def test_errors_of_the_models_are_raised_and_do_not_end_the_process() -> None:
    with process() as apart:
        with pytest.raises(ModelFailed):
            apart.embed([Prepared.shared(np.zeros(3, np.float32))] * 2)
        assert len(apart.embed(inputs(2)).recall) == 2


def test_models_that_cannot_be_loaded_raise() -> None:
    with pytest.raises(UnknownProfile):
        ModelProcess("stub:batch_ms=soon")
    with pytest.raises(UnknownProfile):
        ModelProcess("nothing")


def test_it_ends_when_it_is_closed() -> None:
    with process() as apart:
        child = psutil.Process(apart.process_id)
    assert not child.is_running()
    with pytest.raises(Unavailable):
        apart.embed(inputs(1))


async def test_a_process_that_dies_is_replaced_and_its_callers_get_unavailable() -> None:
    worker = ModelWorker(lambda: ModelProcess("stub:fragile=1"))
    worker.start()
    black, grey = plain(0), plain(0.5)
    try:
        answers = await asyncio.gather(*(worker.embed(black) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        async with asyncio.timeout(60):
            while worker.counts.restarts == 0:
                with contextlib.suppress(Unavailable):
                    await worker.embed(grey)
                await asyncio.sleep(0.02)
        assert (await worker.embed(grey)).quality == pytest.approx(0.5)
    finally:
        worker.close()


async def test_quality_in_a_separate_process_runs_next_to_embedding() -> None:
    embedding = ModelWorker(lambda: ModelProcess("stub:apart=1"))
    scoring = ModelWorker(lambda: ModelProcess("stub:apart=1", niceness=10), max_batch=1)
    embedding.start()
    scoring.start()
    try:
        assert embedding.quality_apart
        inputs = embedding.models.prepare(Image.new("RGB", (8, 8), "white"))
        scored, embedded = await asyncio.gather(scoring.quality(inputs), embedding.embed(inputs))
        assert scored == pytest.approx(1.0)
        assert embedded.quality is None
        assert psutil.Process(scoring.models.process_id).nice() == min(psutil.Process().nice() + 10, 19)  # type: ignore[attr-defined]
    finally:
        embedding.close()
        scoring.close()
