"""The model worker: batches, order, cancellation, and an outcome for every caller."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest

from attributor.workers.model_worker import ModelWorker
from gmvaluator.errors import GmvaluatorError, ModelFailed, Overloaded, Unavailable
from gmvaluator.ports import Embeddings, Float32Array, Prepared
from gmvaluator.testing.models import SIDE_PX, FakeModels


def image(value: float) -> Prepared:
    return Prepared.shared(np.full((3, SIDE_PX, SIDE_PX), value, np.float32))


@contextmanager
def running(
    models: FakeModels,
    max_batch: int = 32,
    max_waiting: int = 512,
    failures: list[GmvaluatorError] | None = None,
    max_delay_s: float = 0.005,
) -> Iterator[ModelWorker]:
    on_failure = (failures if failures is not None else []).append
    worker = ModelWorker(lambda: models, max_batch, max_waiting, on_failure, max_delay_s)
    worker.start()
    models.batches.clear()
    try:
        yield worker
    finally:
        worker.close()


class Gate:
    """Blocks batches while it is shut, for `FakeModels.on_batch`."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def __call__(self, inputs: Float32Array | None = None) -> None:
        self._entered.set()
        self._open.wait(10)

    def shut(self) -> None:
        self._entered.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def entered(self) -> None:
        """Wait until a batch has reached the shut gate."""
        assert await asyncio.to_thread(self._entered.wait, 10)


Outcome = TypeVar("Outcome")


async def submitted(call: Coroutine[Any, Any, Outcome]) -> asyncio.Task[Outcome]:
    """Start a call of the worker; its image is in the queue when this returns."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    return task


async def test_calls_that_wait_together_are_one_batch() -> None:
    gate = Gate()
    models = FakeModels(on_batch=gate)
    with running(models) as worker:
        gate.shut()
        calls = [await submitted(worker.embed(image(0)))]
        await gate.entered()
        calls += [await submitted(worker.embed(image(number / 20))) for number in range(1, 20)]
        assert worker.waiting == 19
        gate.open()
        await asyncio.gather(*calls)
    assert models.batches == [1, 19]


async def test_a_batch_waits_for_announced_images_and_for_no_others() -> None:
    models = FakeModels()
    with running(models, max_delay_s=60) as worker:
        await worker.embed(image(0.1))
        with worker.coming():
            first = await submitted(worker.embed(image(0.2)))
            # Without a delay the worker would take the image at once; nothing else shows that it waits.
            await asyncio.sleep(0.05)
            assert worker.waiting == 1
            second = await submitted(worker.embed(image(0.3)))
        await asyncio.gather(first, second)
    assert models.batches == [1, 2]


async def test_a_batch_waits_no_longer_than_its_delay() -> None:
    with running(FakeModels(), max_delay_s=0.01) as worker, worker.coming():
        await asyncio.wait_for(worker.embed(image(0.2)), 10)


async def test_each_caller_gets_its_own_row() -> None:
    with running(FakeModels()) as worker:
        values = [0.1, 0.5, 0.9]
        answers = await asyncio.gather(*(worker.embed(image(value)) for value in values))
    assert [answer.quality for answer in answers] == pytest.approx(values)


async def test_batches_are_bounded() -> None:
    models = FakeModels()
    with running(models, max_batch=4) as worker:
        await asyncio.gather(*(worker.embed(image(0.5)) for _ in range(20)))
    assert max(models.batches) <= 4
    assert sum(models.batches) == 20


async def test_one_bad_image_does_not_fail_its_neighbours() -> None:
    def refuse_white(inputs: Float32Array) -> None:
        if (inputs == 1).all(axis=(1, 2, 3)).any():
            raise RuntimeError("white")

    models = FakeModels()
    with running(models) as worker:
        models.on_batch = refuse_white
        calls = [worker.embed(image(1.0 if number == 5 else 0.5)) for number in range(9)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, ModelFailed) for answer in answers] == [number == 5 for number in range(9)]


async def test_work_whose_caller_has_gone_is_dropped() -> None:
    gate = Gate()
    models = FakeModels(on_batch=gate)
    with running(models, max_batch=1) as worker:
        gate.shut()
        first = await submitted(worker.embed(image(0.5)))
        await gate.entered()
        for call in [await submitted(worker.embed(image(0.5))) for _ in range(4)]:
            call.cancel()
        await asyncio.sleep(0)
        gate.open()
        await first
        await worker.embed(image(0.5))  # the queue is in order: the cancelled images have been dropped by now
    assert sum(models.batches) == 2
    assert worker.counts.dropped == 4


async def test_a_full_queue_refuses() -> None:
    gate = Gate()
    with running(FakeModels(on_batch=gate), max_batch=1, max_waiting=3) as worker:
        gate.shut()
        calls = [await submitted(worker.embed(image(0.5)))]
        await gate.entered()
        calls += [await submitted(worker.embed(image(0.5))) for _ in range(9)]
        gate.open()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 6


async def test_a_separate_quality_model_is_called_on_its_own() -> None:
    with running(FakeModels(separate_quality=True)) as worker:
        features = await worker.embed(image(0.25))
        assert features.quality is None
        assert await worker.quality(image(0.25)) == pytest.approx(0.25)


async def test_a_closed_worker_refuses() -> None:
    with running(FakeModels()) as worker:
        pass
    with pytest.raises(Unavailable):
        await worker.embed(image(0.5))


def test_models_that_cannot_be_loaded_fail_the_start() -> None:
    def load() -> FakeModels:
        raise ModelFailed("no weights")

    with pytest.raises(ModelFailed, match="no weights"):
        ModelWorker(load).start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_if_the_thread_dies_its_callers_get_unavailable() -> None:
    def die(inputs: Float32Array) -> None:
        raise SystemExit

    models, failures = FakeModels(), list[GmvaluatorError]()
    with running(models, failures=failures) as worker:
        models.on_batch = die
        with pytest.raises(Unavailable):
            await asyncio.wait_for(worker.embed(image(0.5)), 10)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(worker.embed(image(0.5)), 10)
    assert len(failures) == 1


async def test_models_that_answer_too_few_rows_fail_the_call_and_live_on() -> None:
    class Short(FakeModels):
        def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
            rows = super().embed(inputs)
            return rows if len(self.batches) != 2 else Embeddings(rows.recall[1:], rows.perceptual, rows.quality)

    with running(Short()) as worker:
        await worker.embed(image(0.5))
        with pytest.raises(ModelFailed):
            await worker.embed(image(0.5))
        assert (await worker.embed(image(0.5))).quality == pytest.approx(0.5)


async def test_embedding_goes_before_quality() -> None:
    gate = Gate()
    order: list[str] = []

    class Noting(FakeModels):
        def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
            order.append("embed")
            return super().embed(inputs)

        def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
            order.append("quality")
            return super().quality(inputs)

    with running(Noting(separate_quality=True, on_batch=gate), max_batch=1) as worker:
        order.clear()
        gate.shut()
        first = await submitted(worker.embed(image(0.5)))
        await gate.entered()
        scored = await submitted(worker.quality(image(0.5)))
        second = await submitted(worker.embed(image(0.5)))
        gate.open()
        await asyncio.gather(first, scored, second)
    assert order == ["embed", "embed", "quality"]


async def test_embedding_goes_between_the_slices_of_a_quality() -> None:
    gate = Gate()
    order: list[str] = []

    class Sliced(FakeModels):
        left = 3

        def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
            order.append("embed")
            return super().embed(inputs)

        def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
            order.append("slice")
            gate()
            self.left -= 1
            return [None] * len(inputs) if self.left else super().quality_slice(inputs)

    models = Sliced(separate_quality=True)
    models.left = 1  # the warm-up's
    with running(models) as worker:
        order.clear()
        models.left = 3
        gate.shut()
        scored = await submitted(worker.quality(image(0.25)))
        await gate.entered()
        embedded = await submitted(worker.embed(image(0.5)))
        gate.open()
        await embedded
        assert await scored == pytest.approx(0.25)
    assert order == ["slice", "embed", "slice", "slice"]


async def test_the_first_image_is_scored_first_and_a_caller_that_left_is_dropped_between_slices() -> None:
    scored: list[float] = []

    class OneASlice(FakeModels):
        def quality_slice(self, inputs: Sequence[Prepared]) -> list[float | None]:
            first, *others = super().quality_slice(inputs)
            assert first is not None
            scored.append(first)
            return [first, *[None] * len(others)]

    with running(OneASlice(separate_quality=True)) as worker:
        scored.clear()
        calls = [asyncio.create_task(worker.quality(image(value))) for value in (0.25, 0.5, 0.75)]
        await calls[0]
        answers = await asyncio.gather(*calls)
    assert answers == pytest.approx([0.25, 0.5, 0.75])
    assert scored == sorted(scored)
