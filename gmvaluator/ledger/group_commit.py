"""The one thread that writes the ledger: postings that wait together are committed together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gmvaluator.concurrency import Waiter, deliver_all
from gmvaluator.errors import GmvaluatorError, LedgerFailed, Overloaded, Unavailable
from gmvaluator.ledger.results import Outcome, Posted, Refused, Replayed
from gmvaluator.ledger.writer import AnyPosting

MAX_COMMIT = 64


class WritableLedger(Protocol):
    """What the writer needs of a ledger; all calls come from its thread."""

    def post(self, batch: Sequence[AnyPosting]) -> Sequence[Outcome]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Job:
    posting: AnyPosting
    waiter: Waiter[Posted | Replayed]


class LedgerWriter:
    """Posts with group commit; an answer is given after the commit, so what was answered is durable.

    After any error that is not about one posting nothing more is written: everyone who waits is told, `on_failure`
    is called once, and the process has to end and recover at its next start.
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
        self._dead: GmvaluatorError | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    def start(self) -> None:
        """Open the ledger in its thread; raises what opening raised (AlreadyHeld, LedgerCorrupt)."""
        self._thread.start()
        self._ready.wait()
        if self._dead is not None:
            raise self._dead

    async def post(self, posting: AnyPosting) -> Posted | Replayed:
        """Post durably, or find what this key posted before. Raises GenerationConflict, LedgerFailed, Overloaded."""
        if self._dead is not None:
            raise self._dead
        job = _Job(posting, Waiter())
        if self._jobs.qsize() >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} postings wait for the ledger: send the image again later")
        self._jobs.put(job)
        if self._dead is not None:
            # The thread ended between the check and the put, and may have missed this job.
            job.waiter.deliver(self._dead)
        return await job.waiter.answer()

    def close(self) -> None:
        """Commit what waits, close the ledger and stop the thread."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            ledger = self._open_ledger()
        except Exception as error:  # noqa: BLE001 - whoever starts us waits for an answer
            self._dead = _ours(error)
            return
        finally:
            self._ready.set()
        try:
            while self._dead is None and (jobs := self._next_jobs()):
                self._commit(ledger, jobs)
        finally:
            self._dead = self._dead or Unavailable("the attributor is stopping: send the image again, with the same id")
            self._fail_waiting()
            ledger.close()

    def _next_jobs(self) -> list[_Job]:
        """Blocks for one job and takes what else waits; an empty list says stop."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) >= MAX_COMMIT or self._jobs.empty():
                return jobs
            job = self._jobs.get()
        self._jobs.put(None)
        return jobs

    def _commit(self, ledger: WritableLedger, jobs: list[_Job]) -> None:
        try:
            outcomes = ledger.post([job.posting for job in jobs])
        except Exception as error:  # noqa: BLE001 - every waiter needs an answer, and nothing may be written after it
            self._stop(_ours(error), jobs)
            return
        answers = [outcome.error if isinstance(outcome, Refused) else outcome for outcome in outcomes]
        deliver_all([(job.waiter, answer) for job, answer in zip(jobs, answers, strict=True)])

    def _stop(self, error: GmvaluatorError, jobs: list[_Job]) -> None:
        self._dead = error
        for job in jobs:
            job.waiter.deliver(error)
        self._fail_waiting()
        self._on_failure(error)

    def _fail_waiting(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None and self._dead is not None:
                job.waiter.deliver(self._dead)


def _ours(error: Exception) -> GmvaluatorError:
    if isinstance(error, GmvaluatorError):
        return error
    return LedgerFailed(f"the ledger's writer broke ({type(error).__name__}: {error}): restart")
