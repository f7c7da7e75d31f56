"""Group commit: one writer thread for the ledger, which commits all waiting postings in one transaction.

Decisions are made in the same thread, each in a transaction of its own.

A durable commit costs a disk flush, whatever its size. Committing postings together lets many callers share one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gmvaluator.concurrency import Waiter, deliver_all
from gmvaluator.errors import GmvaluatorError, LedgerFailed, Overloaded, Unavailable
from gmvaluator.ledger.results import Outcome, Posted, Refused, Replayed
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.ledger.writer import AnyPosting

Result = TypeVar("Result")

Decide = Callable[[LedgerTransaction], Result]
"""A decision: it reads its facts and posts what follows from them; see `Ledger.decide`."""

MAX_COMMIT = 64
"""Maximum number of postings in one commit."""

CHECK_S = 1.0
"""Seconds without a job after which the writer checks that its ledger is still there."""


class WritableLedger(Protocol):
    """The writing side of a ledger; all calls come from the writer thread."""

    def post(self, batch: Sequence[AnyPosting]) -> Sequence[Outcome]: ...

    def decide(self, decision: Decide[Result]) -> Result: ...

    def check_in_place(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Posting:
    posting: AnyPosting
    waiter: Waiter[Posted | Replayed]


@dataclass(frozen=True, slots=True)
class _Decision:
    decide: Decide[Any]
    waiter: Waiter[Any]


_Job = _Posting | _Decision


class LedgerWriter:
    """A writer of the ledger for many coroutines, with group commit; `post` returns after its commit is durable.

    An error that is not about one posting stops the writer: all waiting calls raise it, nothing more is written,
    `on_failure` is called once, and the process has to end and recover at its next start.

    max_waiting: number of postings in the queue above which further ones are rejected.
    """

    def __init__(
        self,
        open_ledger: Callable[[], WritableLedger],
        on_failure: Callable[[GmvaluatorError], None],
        max_waiting: int = 1024,
    ) -> None:
        self._open_ledger = open_ledger
        self._on_failure = on_failure
        self._max_waiting = max_waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop_reason: GmvaluatorError | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    def start(self) -> None:
        """Open the ledger in its thread. Raises what opening it raises, such as AlreadyHeld or LedgerCorrupt."""
        self._thread.start()
        self._ready.wait()
        if self._stop_reason is not None:
            raise self._stop_reason

    async def post(self, posting: AnyPosting) -> Posted | Replayed:
        """Post durably, or return what was posted before under this key.

        Raises GenerationConflict, LedgerFailed, Overloaded, and Unavailable after `close`.
        """
        waiter: Waiter[Posted | Replayed] = Waiter()
        self._put(_Posting(posting, waiter))
        return await waiter.answer()

    async def decide(self, decision: Decide[Result]) -> Result:
        """Make a decision in the writer's thread, in a transaction of its own; return its result once it is durable.

        It is made even if the caller is cancelled meanwhile. Raises what it raises, and what `post` raises.
        """
        waiter: Waiter[Result] = Waiter()
        self._put(_Decision(decision, waiter))
        return await waiter.answer()

    def _put(self, job: _Job) -> None:
        if self._stop_reason is not None:
            raise self._stop_reason
        if self._jobs.qsize() >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} postings wait for the ledger: send the image again later")
        self._jobs.put(job)
        if self._stop_reason is not None:
            # The thread ended between the check and the put, and may have missed this job.
            job.waiter.deliver(self._stop_reason)

    def close(self) -> None:
        """Commit the waiting postings, close the ledger and stop the thread."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            ledger = self._open_ledger()
        except Exception as error:  # noqa: BLE001 - `start` waits for the result
            self._stop_reason = _as_product_error(error)
            return
        finally:
            self._ready.set()
        try:
            while self._stop_reason is None and (jobs := self._next_jobs(ledger)):
                self._commit(ledger, jobs)
        finally:
            self._stop_reason = self._stop_reason or Unavailable(
                "the attributor is stopping: send the image again, with the same id"
            )
            self._fail_waiting()
            ledger.close()

    def _next_jobs(self, ledger: WritableLedger) -> list[_Job]:
        """Wait for one job and take all others that wait; return an empty list to stop."""
        jobs: list[_Job] = []
        job = self._first_job(ledger)
        while job is not None:
            jobs.append(job)
            if len(jobs) >= MAX_COMMIT or self._jobs.empty():
                return jobs
            job = self._jobs.get()
        # The stop signal was taken with jobs before it: put it back, to be found alone after they are committed.
        self._jobs.put(None)
        return jobs

    def _first_job(self, ledger: WritableLedger) -> _Job | None:
        """Wait for a job; None to stop, also because the ledger is no longer there."""
        while True:
            try:
                return self._jobs.get(timeout=CHECK_S)
            except queue.Empty:
                # A service whose ledger is gone says so without waiting for an image.
                try:
                    ledger.check_in_place()
                except GmvaluatorError as error:
                    self._stop(error, [])
                    return None

    def _commit(self, ledger: WritableLedger, jobs: list[_Job]) -> None:
        try:
            _post(ledger, [job for job in jobs if isinstance(job, _Posting)])
            for job in jobs:
                if isinstance(job, _Decision):
                    job.waiter.deliver(_decided(ledger, job.decide))
        except Exception as error:  # noqa: BLE001 - every waiting call must return, and nothing may be written after this
            self._stop(_as_product_error(error), jobs)

    def _stop(self, error: GmvaluatorError, jobs: list[_Job]) -> None:
        self._stop_reason = error
        for job in jobs:
            job.waiter.deliver(error)
        self._fail_waiting()
        self._on_failure(error)

    def _fail_waiting(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None and self._stop_reason is not None:
                job.waiter.deliver(self._stop_reason)


def _post(ledger: WritableLedger, jobs: Sequence[_Posting]) -> None:
    if not jobs:
        return
    outcomes = ledger.post([job.posting for job in jobs])
    results = [outcome.error if isinstance(outcome, Refused) else outcome for outcome in outcomes]
    # One wake-up of the event loop for the whole commit, instead of one for each posting.
    deliver_all([(job.waiter, result) for job, result in zip(jobs, results, strict=True)])


def _decided(ledger: WritableLedger, decide: Decide[Any]) -> Any:
    """Return the result of a decision, or the error by which it was refused. Raises LedgerFailed."""
    try:
        return ledger.decide(decide)
    except LedgerFailed:
        raise
    except GmvaluatorError as refusal:
        return refusal


def _as_product_error(error: Exception) -> GmvaluatorError:
    if isinstance(error, GmvaluatorError):
        return error
    return LedgerFailed(f"the ledger's writer broke ({type(error).__name__}: {error}): restart")
