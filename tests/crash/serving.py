"""Attributors that are ended under load, by kill -9 or SIGTERM: nothing accepted may be lost or doubled.

Callers send images to stub models without pause. As callers must, they resend an image that got no FINAL under the same
id. Some images are sent again although they were answered, as by a caller that lost the answer.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.bench.serving.load import image_files
from evaluation.bench.serving.setup import MODEL_VERSION, built_stub_data
from gmvaluator.auth.secret_files import own_environment
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Failure, GmvaluatorError
from gmvaluator.files import atomic_write
from gmvaluator.ledger.store import open_ledger
from gmvaluator.samples import sample_folder

RESEND_EVERY = 50
"""Number of images after which one that was answered already is sent again."""

PROFILE = "stub:batch_ms=2,image_ms=2"
POINTS = 1_000
"""Points in the index."""

CALLERS = 8
LONGEST_LIFE_S = 1.5
"""Longest time for which an attributor is under load before it is ended, in seconds."""

EXIT_TIMEOUT_S = 60.0
"""Seconds after which an attributor that does not end is killed."""

DRAIN_LIMIT_S = 30.0
"""Longest drain that passes, in seconds."""


@dataclass(slots=True)
class Callers:
    """What all callers sent and received.

    answered: (sequence, issued micro-credits) by generation. contradicted: answers that differ from an earlier one
    for the same generation. cut_off: calls that were admitted, as their first stage shows, but ended without FINAL.
    unexpected: errors that the end of the attributor does not explain.
    """

    image: bytes
    answered: dict[str, tuple[int, int]] = field(default_factory=dict)
    contradicted: int = 0
    cut_off: int = 0
    unexpected: list[str] = field(default_factory=list)
    _sent: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _unanswered: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call_until(self, address: str, stopped: threading.Event, fresh: bool = True) -> None:
        """Call until `stopped` is set or a call fails. fresh: send new images once none has to be resent."""
        with AttributorClient(address, deadline_s=20) as client:
            while not stopped.is_set() and (name := self._next(fresh)) is not None:
                stages = []
                try:
                    for stage in client.attribute(self.image, name, MODEL_VERSION):
                        stages.append(stage)  # noqa: PERF402 - those before an error count
                except GmvaluatorError as error:
                    self._resend(name, error, admitted=bool(stages))
                    return
                self._record(name, (stages[-1].sequence, stages[-1].issued_micros))

    def as_dict(self) -> dict[str, Any]:
        """Return the state from which `from_dict` resumes. Call it while no caller is active."""
        return {
            "answered": self.answered,
            "contradicted": self.contradicted,
            "cut_off": self.cut_off,
            "unexpected": self.unexpected,
            "sent": self._sent,
            "open": self._unanswered,
        }

    @classmethod
    def from_dict(cls, image: bytes, state: dict[str, Any]) -> Callers:
        """Resume from the state of `as_dict`. Images sent since then are sent again under the same ids."""
        return cls(
            image,
            {name: (answer[0], answer[1]) for name, answer in state["answered"].items()},
            state["contradicted"],
            state["cut_off"],
            state["unexpected"],
            state["sent"],
            itertools.count(state["sent"]),
            state["open"],
        )

    def _next(self, fresh: bool) -> str | None:
        with self._lock:
            if self._unanswered:
                return self._unanswered.pop()
            if not fresh:
                return None
            number = next(self._numbers)
            self._sent = number + 1
            if number % RESEND_EVERY == RESEND_EVERY - 1 and self.answered:
                return next(reversed(self.answered))
            return f"crash:{number}"

    def _resend(self, name: str, error: GmvaluatorError, admitted: bool) -> None:
        with self._lock:
            self._unanswered.append(name)
            self.cut_off += admitted
            if isinstance(error, Failure):
                self.unexpected.append(str(error))

    def _record(self, name: str, answer: tuple[int, int]) -> None:
        with self._lock:
            self.contradicted += self.answered.setdefault(name, answer) != answer


class Server:
    """A process of `gmvaluator serve` with stub models, listening on a free port."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "gmvaluator", "serve", "--address", "127.0.0.1:0", "--json"]
        command += ["--data", str(data), "--profile", PROFILE]
        log = data.parent / "attributor.log"
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=own_environment()
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"the attributor ended with exit code {self.process.wait()}: {log} says why")
        self.address: str = json.loads(line)["address"]

    def end(self, number: signal.Signals) -> tuple[float, int]:
        """Send a signal; return the seconds until the process ended, and its exit code."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            code = self.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return time.monotonic() - began, code


@dataclass(slots=True)
class Ends:
    """The progress of a run, which is saved after each attributor so that an aborted run can be resumed.

    exits: seconds until each process had ended, and its exit code.
    """

    callers: Callers
    exits: list[tuple[float, int]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the progress to `path`, atomically."""
        text = json.dumps({"callers": self.callers.as_dict(), "exits": self.exits})
        atomic_write(path, text)

    @classmethod
    def load(cls, path: Path) -> Ends:
        """Read the progress from `path`, or start a new run if there is none."""
        image = image_files(sample_folder("generated"))[0].read_bytes()
        if not path.is_file():
            return cls(Callers(image))
        state = json.loads(path.read_text(encoding="utf-8"))
        exits = [(seconds, code) for seconds, code in state["exits"]]
        return cls(Callers.from_dict(image, state["callers"]), exits)


def run_ended(
    folder: Path,
    how: str,
    times: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, answered: None,
) -> dict[str, Any]:
    """End `times` attributors by `how`, "kill" or "drain" (SIGTERM); names of figures begin with that word.

    lost: images that were answered with FINAL but are not in the ledger as answered, and in a drain also calls that
    were admitted and then cut off. doubled: postings beyond one per generation, and contradictory answers. An
    interrupted run is resumed from its files in `folder`. progress: called after each attributor with the attributors
    and images so far.
    """
    number = signal.SIGKILL if how == "kill" else signal.SIGTERM
    data, state = built_stub_data(folder, POINTS), folder / "ends.json"
    ends = Ends.load(state)
    while len(ends.exits) < times:
        chance = random.Random(f"{seed} {len(ends.exits)}")
        ends.exits.append(_serve_and_end(data, ends.callers, number, chance.uniform(0.05, LONGEST_LIFE_S)))
        ends.save(state)
        progress(len(ends.exits), len(ends.callers.answered))
    cut_off = ends.callers.cut_off if how == "drain" else 0
    _resend_unanswered(data, ends.callers)
    figures = {**_checked(data, ends.callers, cut_off), **_exit_figures(ends.exits, how)}
    return {f"{how}_{name}": value for name, value in figures.items()}


def _serve_and_end(data: Path, callers: Callers, number: signal.Signals, life_s: float) -> tuple[float, int]:
    stopped = threading.Event()
    with _serving(data) as server:
        threads = [threading.Thread(target=callers.call_until, args=(server.address, stopped)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(life_s)
            ended = server.end(number)
        finally:
            stopped.set()
    for thread in threads:
        thread.join()
    return ended


@contextmanager
def _serving(data: Path) -> Iterator[Server]:
    """Run an attributor, which is killed at the end of the context if it still runs."""
    server = Server(data)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def _resend_unanswered(data: Path, callers: Callers) -> None:
    with _serving(data) as server:
        callers.call_until(server.address, threading.Event(), fresh=False)
        server.end(signal.SIGTERM)


def _exit_figures(exits: list[tuple[float, int]], how: str) -> dict[str, Any]:
    if how == "kill":
        return {"times": len(exits)}
    return {
        "times": len(exits),
        "exit_max_s": max(seconds for seconds, _ in exits),
        "exit_codes_wrong": sum(code != 0 for _, code in exits),
    }


def _checked(data: Path, callers: Callers, cut_off: int) -> dict[str, Any]:
    with open_ledger(data) as ledger:
        verification, totals = ledger.verify(), ledger.totals()
        stored = {
            posting.header.generation_id: (posting.sequence, posting.header.issued_micros)
            for posting in ledger.every_posting()
        }
    lost = [name for name, answer in callers.answered.items() if stored.get(name) != answer]
    issued = sum(micros for _, micros in stored.values())
    return {
        "answered": len(callers.answered),
        "postings": totals.postings,
        "lost": len(lost) + cut_off,
        "doubled": callers.contradicted + totals.postings - len(stored),
        "not_sent_again": len(set(stored) - set(callers.answered)),
        "sums_equal": totals.reconciles and totals.issued_micros == issued,
        "verify_ok": verification.ok,
        "unexpected_errors": callers.unexpected[:5],
    }


def passed(figures: dict[str, Any]) -> bool:
    """Return whether nothing was lost or doubled, all sums agree, and every drain ended cleanly and in time."""
    return (
        all(figures[f"{how}_{name}"] == 0 for how in ("kill", "drain") for name in ("lost", "doubled"))
        and all(
            figures[f"{how}_{name}"] for how in ("kill", "drain") for name in ("answered", "sums_equal", "verify_ok")
        )
        and not any(figures[f"{how}_unexpected_errors"] for how in ("kill", "drain"))
        and figures["drain_exit_max_s"] <= DRAIN_LIMIT_S
        and figures["drain_exit_codes_wrong"] == 0
    )
