"""Batching: one thread owns a profile's models and computes the images of many requests together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gmvaluator.concurrency import Waiter, deliver_all
from gmvaluator.errors import GmvaluatorError, ModelFailed, Overloaded, Unavailable
from gmvaluator.ports import Float32Array, Prepared, QueryModels

MAX_DELAY_S = 0.005
"""Time that a batch which is not full waits for images that are being decoded."""

MAX_RESTARTS = 5
"""Restarts of lost models within `RESTART_PERIOD_S`; after that the process has to end."""

RESTART_PERIOD_S = 300.0
_STOPPING = "the attributor is stopping: send the image again, with the same id"


NO_WINDOWS: Float32Array = np.empty((0, 0), np.float32)
"""Windows of an image that was embedded without."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of one image: (D,) recall, (Q, P) perceptual, quality in [0, 1] or None, and times in milliseconds.

    windows: (W, D) recall vectors of its windows, (0, D) if it was embedded without.
    """

    recall: Float32Array
    perceptual: Float32Array
    quality: float | None
    queue_ms: float
    embed_ms: float
    windows: Float32Array = field(default_factory=lambda: NO_WINDOWS)


@dataclass(slots=True)
class WorkerCounts:
    """Counts since the start. dropped: images whose caller had disconnected before their batch was formed."""

    batches: int = 0
    images: int = 0
    dropped: int = 0
    failed: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """One image in a queue. queued_at: by the monotonic clock, in seconds."""

    inputs: Prepared
    wants_quality: bool
    waiter: Waiter[Features]
    queued_at: float


_Row = tuple[Float32Array, Float32Array, float | None, Float32Array]
"""Recall, perceptual, quality and windows of one image."""


class ModelWorker:
    """A thread that owns the models; a batch is all that waits when the thread is free, up to `max_batch`.

    Delay: a batch that is not full waits up to `max_delay_s` for images that are announced by `coming`, for no others.
    Order: embedding goes before quality, and between its slices; an image whose quality is not done returns to the
    front of its queue.
    Cancellation: images whose caller has disconnected are dropped when the batch forms.
    Errors: a failed batch is halved until the image at fault is alone. If the models are lost (they raise Unavailable),
    all waiting callers get Unavailable, and `load` makes new models. If the thread dies, or models are lost too often,
    every waiting and every later caller gets Unavailable, and `on_failure` is called once: the process has to end.
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
        """on_batch: called after each batch with the number of its images and the seconds it took."""
        self._load = load
        self._on_failure = on_failure
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_delay_s = max_delay_s
        self._on_batch = on_batch
        self._embedding: deque[_Job] = deque()
        self._scoring: deque[_Job] = deque()
        self._coming = 0
        self._current: list[_Job] = []
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
        """Whether quality is a separate model; known once started."""

    def start(self) -> QueryModels:
        """Load the models and warm them up; blocks. Raises what loading raised."""
        self._thread.start()
        self._loaded.wait()
        if self._dead is not None:
            raise self._dead
        return self.models

    @property
    def models(self) -> QueryModels:
        """The loaded models. Raises Unavailable before that."""
        if self._models is None:
            raise Unavailable("the models are not loaded yet: wait until health says SERVING")
        return self._models

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return len(self._embedding) + len(self._scoring)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announce an image that is being decoded: a batch may wait for it up to `max_delay_s`."""
        with self._wake:
            self._coming += 1
        try:
            yield
        finally:
            with self._wake:
                self._coming -= 1
                self._wake.notify()

    async def embed(self, inputs: Prepared) -> Features:
        """Embed an image that `Models.prepare` returned. Raises Overloaded, ModelFailed or Unavailable."""
        return await self._submit(self._embedding, inputs, wants_quality=False)

    async def quality(self, inputs: Prepared) -> float:
        """Return the quality in [0, 1], higher is better; only for profiles whose `embed` returns none."""
        features = await self._submit(self._scoring, inputs, wants_quality=True)
        if features.quality is None:
            raise ModelFailed("the quality model answered nothing")
        return features.quality

    def close(self) -> None:
        """Finish the current batch, refuse the images that wait, and stop the thread."""
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
        except Exception as error:  # noqa: BLE001 - the caller of `start` raises it
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
            self._current = batch
            self._process(batch)
            self._current = []
            if self._lost is not None:
                self._replace_models()
        self._fail_everyone(Unavailable(_STOPPING))

    def _replace_models(self) -> None:
        """Replace lost models. Raises if that fails, or if it was necessary too often."""
        now = time.monotonic()
        if len(self._restarted) == MAX_RESTARTS and now - self._restarted[0] < RESTART_PERIOD_S:
            raise ModelFailed(f"the models were lost {MAX_RESTARTS + 1} times in {RESTART_PERIOD_S:.0f} s")
        self._restarted.append(now)
        close_models(self._models)
        self._models = self._warmed_up(self._load())
        self.counts.restarts += 1
        with self._wake:
            self._lost = None

    def _next_batch(self) -> list[_Job]:
        """Wait for the next batch; return an empty list once the worker is closing."""
        with self._wake:
            while not self._closing:
                queue = self._embedding or self._scoring
                if not queue:
                    self._wake.wait()
                elif (delay_s := self._delay_s()) > 0:
                    self._wake.wait(delay_s)
                elif jobs := self._take(queue):
                    return jobs
        return []

    def _delay_s(self) -> float:
        """Return the time that the next batch may still wait to grow."""
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
        except Exception as error:  # noqa: BLE001 - models raise anything, and every caller needs an outcome
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
            Features(recall, perceptual, quality, (started - job.queued_at) * 1000, embed_ms, windows)
            for job, (recall, perceptual, quality, windows) in done
        ]
        # One wake-up of the event loop for the whole batch.
        deliver_all([(job.waiter, row) for (job, _), row in zip(done, features, strict=True)])

    def _bisect(self, jobs: list[_Job], error: Exception) -> None:
        """Retry a failed batch in halves; deliver the error to an image that fails alone."""
        if len(jobs) == 1:
            failure = error if isinstance(error, GmvaluatorError) else ModelFailed(f"{type(error).__name__}: {error}")
            self.counts.failed += 1
            jobs[0].waiter.deliver(failure)
            return
        half = len(jobs) // 2
        for part in (jobs[:half], jobs[half:]):
            # If the first half lost the models, `_lose` has failed the second one with it.
            if self._lost is None:
                self._process(part)

    def _lose(self, error: Unavailable) -> None:
        """Fail the current batch and all that wait, and refuse new images until the models are replaced."""
        with self._wake:
            self._lost = error
        self._fail_waiting(error)

    def _put_back(self, jobs: list[_Job]) -> None:
        """Return jobs to the front of their queue, in order, so that the oldest is done first."""
        with self._wake:
            self._scoring.extendleft(reversed(jobs))

    def _compute(self, jobs: list[_Job]) -> Sequence[_Row | None]:
        """Compute a row for each job; None for a job that needs another slice."""
        return self._compute_quality(jobs) if jobs[0].wants_quality else self._compute_vectors(jobs)

    def _compute_quality(self, jobs: list[_Job]) -> list[_Row | None]:
        nothing = np.empty(0, np.float32)
        qualities = self.models.quality_slice([job.inputs for job in jobs])
        if len(qualities) != len(jobs):
            raise ModelFailed(f"the quality model answered {len(qualities)} values for {len(jobs)} images")
        return [None if quality is None else (nothing, nothing, float(quality), NO_WINDOWS) for quality in qualities]

    def _compute_vectors(self, jobs: list[_Job]) -> list[_Row]:
        inputs = [job.inputs for job in jobs]
        rows = self.models.embed(inputs)
        qualities = [None] * len(jobs) if rows.quality is None else [float(quality) for quality in rows.quality]
        windows = [NO_WINDOWS] * len(jobs) if rows.windows is None else rows.windows
        if not len(rows.recall) == len(rows.perceptual) == len(qualities) == len(windows) == len(jobs):
            raise ModelFailed(f"the models answered {len(rows.recall)} rows for {len(jobs)} images")
        return list(zip(rows.recall, rows.perceptual, qualities, windows, strict=True))

    def _warmed_up(self, models: QueryModels) -> QueryModels:
        """Make the first, slow calls now, and learn whether quality is a separate model."""
        from PIL import Image

        inputs = [models.prepare(Image.new("RGB", (256, 256), "white"))]
        self.quality_apart = models.embed(inputs).quality is None
        if self.quality_apart:
            models.quality_slice(inputs)
        return models

    def _fail_everyone(self, error: GmvaluatorError) -> None:
        """Fail all that wait, and every later caller."""
        with self._wake:
            self._dead = self._dead or error
        self._fail_waiting(self._dead)

    def _fail_waiting(self, error: GmvaluatorError) -> None:
        with self._wake:
            waiting = [*self._current, *self._embedding, *self._scoring]
            self._embedding.clear()
            self._scoring.clear()
        deliver_all([(job.waiter, error) for job in waiting])


def close_models(models: QueryModels | None) -> None:
    """Close models that hold resources, such as a process."""
    close = getattr(models, "close", None)
    if close is not None:
        close()
