"""One owner thread for a profile's models: calls from many requests become batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gmvaluator.errors import GmvaluatorError, ModelFailed, Overloaded, Unavailable
from gmvaluator.ports import Float32Array, Models
from gmvaluator.waiter import Waiter


@dataclass(frozen=True, slots=True)
class Features:
    """What the models make of one image: (D,) recall, (P,) perceptual, quality in [0, 1] or None, and the time."""

    recall: Float32Array
    perceptual: Float32Array
    quality: float | None
    queue_ms: float
    embed_ms: float


@dataclass(frozen=True, slots=True)
class _Job:
    inputs: Float32Array
    wants_quality: bool
    waiter: Waiter[Features]
    queued_at: float


class ModelWorker:
    """Owns the models in a thread of its own; a batch is whatever waits when the thread is free.

    Embedding goes before quality. Work whose caller has gone is dropped when the batch forms. A failed batch is
    halved until the image at fault stands alone. If the thread dies, every waiter and every later caller gets
    Unavailable and `on_failure` is called once: the process has to end.
    """

    def __init__(
        self,
        load: Callable[[], Models],
        max_batch: int = 32,
        max_waiting: int = 512,
        on_failure: Callable[[GmvaluatorError], None] = lambda error: None,  # noqa: ARG005
    ) -> None:
        self._load = load
        self._on_failure = on_failure
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._embedding: deque[_Job] = deque()
        self._scoring: deque[_Job] = deque()
        self._in_hand: list[_Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._dead: GmvaluatorError | None = None
        self._models: Models | None = None
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> Models:
        """Load and warm up; blocks. Raises what loading raised."""
        self._thread.start()
        self._loaded.wait()
        if self._dead is not None:
            raise self._dead
        return self.models

    @property
    def models(self) -> Models:
        if self._models is None:
            raise Unavailable("the models are not loaded yet: wait until health says SERVING")
        return self._models

    async def embed(self, inputs: Float32Array) -> Features:
        """(3, H, W) from `Models.prepare` to features. Raises Overloaded, ModelFailed or Unavailable."""
        return await self._submit(self._embedding, inputs, wants_quality=False)

    async def quality(self, inputs: Float32Array) -> float:
        """(3, H, W) to quality in [0, 1], higher is better; only for profiles whose `embed` gives none."""
        features = await self._submit(self._scoring, inputs, wants_quality=True)
        if features.quality is None:
            raise ModelFailed("the quality model answered nothing")
        return features.quality

    def close(self) -> None:
        """Let the batch in hand end, refuse the rest and stop the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def _submit(self, queue: deque[_Job], inputs: Float32Array, wants_quality: bool) -> Features:
        job = _Job(inputs, wants_quality, Waiter(), time.monotonic())
        with self._wake:
            if self._dead is not None or self._closing:
                raise self._dead or Unavailable("the attributor is stopping: send the image again, with the same id")
            if len(self._embedding) + len(self._scoring) >= self._max_waiting:
                raise Overloaded(f"{self._max_waiting} images wait for the models: send this one again later")
            queue.append(job)
            self._wake.notify()
        return await job.waiter.answer()

    def _run(self) -> None:
        try:
            self._models = _warmed_up(self._load())
        except Exception as error:  # noqa: BLE001 - whoever starts us waits for an answer
            self._fail_everyone(
                error if isinstance(error, GmvaluatorError) else ModelFailed(f"loading failed: {error}")
            )
            return
        finally:
            self._loaded.set()
        try:
            while batch := self._next_batch():
                self._in_hand = batch
                self._process(batch)
                self._in_hand = []
            self._fail_everyone(Unavailable("the attributor is stopping: send the image again, with the same id"))
        except BaseException as error:
            died = Unavailable(f"the models' thread died: {type(error).__name__}: {error}")
            self._fail_everyone(died)
            self._on_failure(died)
            raise

    def _next_batch(self) -> list[_Job]:
        """Blocks until there is work; an empty list says stop."""
        with self._wake:
            while not self._closing:
                queue = self._embedding or self._scoring
                jobs = [queue.popleft() for _ in range(min(self._max_batch, len(queue)))]
                wanted = [job for job in jobs if not job.waiter.gone]
                if wanted:
                    return wanted
                if not jobs:
                    self._wake.wait()
        return []

    def _process(self, jobs: list[_Job]) -> None:
        started = time.monotonic()
        try:
            rows = self._compute(jobs)
        except Exception as error:  # noqa: BLE001 - models raise anything, and every waiter needs an answer
            self._bisect(jobs, error)
            return
        embed_ms = (time.monotonic() - started) * 1000
        for job, (recall, perceptual, quality) in zip(jobs, rows, strict=True):
            queue_ms = (started - job.queued_at) * 1000
            job.waiter.deliver(Features(recall, perceptual, quality, queue_ms, embed_ms))

    def _bisect(self, jobs: list[_Job], error: Exception) -> None:
        if len(jobs) == 1:
            failure = error if isinstance(error, GmvaluatorError) else ModelFailed(f"{type(error).__name__}: {error}")
            jobs[0].waiter.deliver(failure)
            return
        half = len(jobs) // 2
        self._process(jobs[:half])
        self._process(jobs[half:])

    def _compute(self, jobs: list[_Job]) -> list[tuple[Float32Array, Float32Array, float | None]]:
        inputs = np.stack([job.inputs for job in jobs])
        if jobs[0].wants_quality:
            nothing = np.empty(0, np.float32)
            scores = self.models.quality(inputs)
            if len(scores) != len(jobs):
                raise ModelFailed(f"the quality model answered {len(scores)} values for {len(jobs)} images")
            return [(nothing, nothing, float(quality)) for quality in scores]
        rows = self.models.embed(inputs)
        qualities = [None] * len(jobs) if rows.quality is None else [float(quality) for quality in rows.quality]
        if not len(rows.recall) == len(rows.perceptual) == len(qualities) == len(jobs):
            raise ModelFailed(f"the models answered {len(rows.recall)} rows for {len(jobs)} images")
        return list(zip(rows.recall, rows.perceptual, qualities, strict=True))

    def _fail_everyone(self, error: GmvaluatorError) -> None:
        with self._wake:
            self._dead = self._dead or error
            waiting = [*self._in_hand, *self._embedding, *self._scoring]
            self._embedding.clear()
            self._scoring.clear()
        for job in waiting:
            job.waiter.deliver(self._dead)


def _warmed_up(models: Models) -> Models:
    """First calls are slow: make them before anyone waits."""
    from PIL import Image

    inputs = models.prepare(Image.new("RGB", (256, 256), "white"))[np.newaxis]
    if models.embed(inputs).quality is None:
        models.quality(inputs)
    return models
