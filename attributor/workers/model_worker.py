"""One owner thread for a profile's models: calls from many requests become batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gmvaluator.concurrency import Waiter, deliver_all
from gmvaluator.errors import GmvaluatorError, ModelFailed, Overloaded, Unavailable
from gmvaluator.ports import Float32Array, Prepared, QueryModels

MAX_DELAY_S = 0.005
MAX_RESTARTS = 5
"""Times that lost models are made anew within `RESTARTS_WITHIN_S`; after that the process has to end."""

RESTARTS_WITHIN_S = 300.0
_STOPPING = "the attributor is stopping: send the image again, with the same id"


@dataclass(frozen=True, slots=True)
class Features:
    """What the models make of one image: (D,) recall, (Q, P) perceptual, quality in [0, 1] or None, and the time."""

    recall: Float32Array
    perceptual: Float32Array
    quality: float | None
    queue_ms: float
    embed_ms: float


@dataclass(slots=True)
class WorkerCounts:
    """What the worker did so far. dropped: images whose caller had gone before their batch was formed."""

    batches: int = 0
    images: int = 0
    dropped: int = 0
    failed: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    inputs: Prepared
    wants_quality: bool
    waiter: Waiter[Features]
    queued_at: float


_Row = tuple[Float32Array, Float32Array, float | None]
"""Recall, perceptual and quality of one image."""


class ModelWorker:
    """Owns the models in a thread of its own; a batch is whatever waits when the thread is free.

    A batch that is not full waits up to `max_delay_s` for images that are on their way (see `coming`), and no longer.
    Embedding goes before quality, and between its slices: an image that is not done waits at the front of its queue.
    Work whose caller has gone is dropped when the batch forms. A failed batch is halved until the image at fault
    stands alone. If the models are lost (they raise Unavailable), all who wait get Unavailable and `load` makes new
    ones. If the thread dies, or the models are lost again and again, every waiter and every later caller gets
    Unavailable and `on_failure` is called once: the process has to end.
    """

    def __init__(
        self,
        load: Callable[[], QueryModels],
        max_batch: int = 32,
        max_waiting: int = 512,
        on_failure: Callable[[GmvaluatorError], None] = lambda error: None,  # noqa: ARG005
        max_delay_s: float = MAX_DELAY_S,
        on_batch: Callable[[int, float], None] = lambda count, seconds: None,  # noqa: ARG005
    ) -> None:
        """on_batch: told of each batch that was answered, with its images and the seconds it took."""
        self._load = load
        self._on_failure = on_failure
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_delay_s = max_delay_s
        self._on_batch = on_batch
        self._embedding: deque[_Job] = deque()
        self._scoring: deque[_Job] = deque()
        self._coming = 0
        self._in_hand: list[_Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._dead: GmvaluatorError | None = None
        self._lost: GmvaluatorError | None = None
        self._restarted: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._models: QueryModels | None = None
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self.counts = WorkerCounts()
        self.quality_apart = False
        """Once started: whether quality is a model of its own."""

    def start(self) -> QueryModels:
        """Load and warm up; blocks. Raises what loading raised."""
        self._thread.start()
        self._loaded.wait()
        if self._dead is not None:
            raise self._dead
        return self.models

    @property
    def models(self) -> QueryModels:
        if self._models is None:
            raise Unavailable("the models are not loaded yet: wait until health says SERVING")
        return self._models

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return len(self._embedding) + len(self._scoring)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Say that an image is being made ready for `embed`: a batch may wait for it a little."""
        with self._wake:
            self._coming += 1
        try:
            yield
        finally:
            with self._wake:
                self._coming -= 1
                self._wake.notify()

    async def embed(self, inputs: Prepared) -> Features:
        """An image from `Models.prepare` to features. Raises Overloaded, ModelFailed or Unavailable."""
        return await self._submit(self._embedding, inputs, wants_quality=False)

    async def quality(self, inputs: Prepared) -> float:
        """Quality in [0, 1], higher is better; only for profiles whose `embed` gives none."""
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

    async def _submit(self, queue: deque[_Job], inputs: Prepared, wants_quality: bool) -> Features:
        job = _Job(inputs, wants_quality, Waiter(), time.monotonic())
        with self._wake:
            refusal = self._dead or self._lost
            if refusal is not None or self._closing:
                raise refusal or Unavailable(_STOPPING)
            if self.waiting >= self._max_waiting:
                raise Overloaded(f"{self._max_waiting} images wait for the models: send this one again later")
            queue.append(job)
            self._wake.notify()
        return await job.waiter.answer()

    def _run(self) -> None:
        try:
            self._models = self._warmed_up(self._load())
        except Exception as error:  # noqa: BLE001 - whoever starts us waits for an answer
            self._fail_everyone(
                error if isinstance(error, GmvaluatorError) else ModelFailed(f"loading failed: {error}")
            )
            return
        finally:
            self._loaded.set()
        try:
            self._work()
        except BaseException as error:
            died = Unavailable(f"the models' thread died: {type(error).__name__}: {error}")
            self._fail_everyone(died)
            self._on_failure(died)
            raise
        finally:
            close_models(self._models)

    def _work(self) -> None:
        while batch := self._next_batch():
            self._in_hand = batch
            self._process(batch)
            self._in_hand = []
            if self._lost is not None:
                self._replace_models()
        self._fail_everyone(Unavailable(_STOPPING))

    def _replace_models(self) -> None:
        """Make lost models anew; raises if that fails, or if it was needed too often."""
        now = time.monotonic()
        if len(self._restarted) == MAX_RESTARTS and now - self._restarted[0] < RESTARTS_WITHIN_S:
            raise ModelFailed(f"the models were lost {MAX_RESTARTS + 1} times in {RESTARTS_WITHIN_S:.0f} s")
        self._restarted.append(now)
        close_models(self._models)
        self._models = self._warmed_up(self._load())
        self.counts.restarts += 1
        with self._wake:
            self._lost = None

    def _next_batch(self) -> list[_Job]:
        """Blocks until there is work; an empty list says stop."""
        with self._wake:
            while not self._closing:
                queue = self._embedding or self._scoring
                if not queue:
                    self._wake.wait()
                elif (delay_s := self._delay_s()) > 0:
                    self._wake.wait(delay_s)
                elif wanted := self._take(queue):
                    return wanted
        return []

    def _delay_s(self) -> float:
        """How long the next batch may still wait to become larger."""
        waiting = self._embedding
        if not waiting or len(waiting) >= self._max_batch or self._coming <= 0:
            return 0.0
        return waiting[0].queued_at + self._max_delay_s - time.monotonic()

    def _take(self, queue: deque[_Job]) -> list[_Job]:
        jobs: list[_Job] = []
        while queue and len(jobs) < self._max_batch:
            job = queue.popleft()
            if job.waiter.gone:
                self.counts.dropped += 1
            else:
                jobs.append(job)
        return jobs

    def _process(self, jobs: list[_Job]) -> None:
        started = time.monotonic()
        try:
            rows = self._compute(jobs)
        except Unavailable as error:
            self._lose(error)
            return
        except Exception as error:  # noqa: BLE001 - models raise anything, and every waiter needs an answer
            self._bisect(jobs, error)
            return
        done = [(job, row) for job, row in zip(jobs, rows, strict=True) if row is not None]
        self._put_back([job for job, row in zip(jobs, rows, strict=True) if row is None])
        embed_ms = (time.monotonic() - started) * 1000
        self.counts.batches += 1
        self.counts.images += len(done)
        if done:
            self._on_batch(len(done), embed_ms / 1000)
        features = [
            Features(recall, perceptual, quality, (started - job.queued_at) * 1000, embed_ms)
            for job, (recall, perceptual, quality) in done
        ]
        deliver_all([(job.waiter, answer) for (job, _), answer in zip(done, features, strict=True)])

    def _bisect(self, jobs: list[_Job], error: Exception) -> None:
        if len(jobs) == 1:
            failure = error if isinstance(error, GmvaluatorError) else ModelFailed(f"{type(error).__name__}: {error}")
            self.counts.failed += 1
            jobs[0].waiter.deliver(failure)
            return
        half = len(jobs) // 2
        for part in (jobs[:half], jobs[half:]):
            if self._lost is None:
                self._process(part)

    def _lose(self, error: Unavailable) -> None:
        """The models are gone: tell the batch in hand and all who wait, and refuse others until there are new ones."""
        with self._wake:
            self._lost = error
        self._tell_all(error)

    def _put_back(self, jobs: list[_Job]) -> None:
        """To the front of their queue, in order: the first that came is the first that is done."""
        with self._wake:
            self._scoring.extendleft(reversed(jobs))

    def _compute(self, jobs: list[_Job]) -> Sequence[_Row | None]:
        """A row for each job; None for one that needs another slice."""
        return self._compute_quality(jobs) if jobs[0].wants_quality else self._compute_vectors(jobs)

    def _compute_quality(self, jobs: list[_Job]) -> list[_Row | None]:
        nothing = np.empty(0, np.float32)
        found = self.models.quality_slice([job.inputs for job in jobs])
        if len(found) != len(jobs):
            raise ModelFailed(f"the quality model answered {len(found)} values for {len(jobs)} images")
        return [None if quality is None else (nothing, nothing, float(quality)) for quality in found]

    def _compute_vectors(self, jobs: list[_Job]) -> list[_Row]:
        inputs = [job.inputs for job in jobs]
        rows = self.models.embed(inputs)
        qualities = [None] * len(jobs) if rows.quality is None else [float(quality) for quality in rows.quality]
        if not len(rows.recall) == len(rows.perceptual) == len(qualities) == len(jobs):
            raise ModelFailed(f"the models answered {len(rows.recall)} rows for {len(jobs)} images")
        return list(zip(rows.recall, rows.perceptual, qualities, strict=True))

    def _warmed_up(self, models: QueryModels) -> QueryModels:
        """First calls are slow: make them before anyone waits."""
        from PIL import Image

        inputs = [models.prepare(Image.new("RGB", (256, 256), "white"))]
        self.quality_apart = models.embed(inputs).quality is None
        if self.quality_apart:
            models.quality_slice(inputs)
        return models

    def _fail_everyone(self, error: GmvaluatorError) -> None:
        with self._wake:
            self._dead = self._dead or error
        self._tell_all(self._dead)

    def _tell_all(self, error: GmvaluatorError) -> None:
        with self._wake:
            waiting = [*self._in_hand, *self._embedding, *self._scoring]
            self._embedding.clear()
            self._scoring.clear()
        deliver_all([(job.waiter, error) for job in waiting])


def close_models(models: QueryModels | None) -> None:
    """End models that hold something, such as a process."""
    close = getattr(models, "close", None)
    if close is not None:
        close()
