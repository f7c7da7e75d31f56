"""The attributor ended under load, again and again: by kill -9, or by SIGTERM. Nothing accepted is lost or doubled.

Callers send images to stub models without pause, and what got no FINAL again under the same id, as a caller has to.
Now and then one sends what was answered already, as one does who lost the answer.

Callers who send images without pause, and send again what got no FINAL, as a caller has to.
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

AGAIN_EVERY = 50
"""Every so many images one is sent that was answered already, as by one who lost the answer."""


@dataclass(slots=True)
class Callers:
    """What all callers sent and were answered: generation to (sequence, issued micro-credits).

    contradicted: answers that differ from an earlier one for the same generation. cut_off: calls that were answered by
    a stage, and so had been let in, but ended without FINAL. unexpected: errors that no end of the attributor explains.
    """

    image: bytes
    answered: dict[str, tuple[int, int]] = field(default_factory=dict)
    contradicted: int = 0
    cut_off: int = 0
    unexpected: list[str] = field(default_factory=list)
    _sent: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _open: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call_until(self, address: str, stopped: threading.Event, fresh: bool = True) -> None:
        """Call until `stopped`, or until a call fails; fresh: new images, once nothing waits to be sent again."""
        with AttributorClient(address, deadline_s=20) as client:
            while not stopped.is_set() and (name := self._next(fresh)) is not None:
                stages = []
                try:
                    for stage in client.attribute(self.image, name, MODEL_VERSION):
                        stages.append(stage)  # noqa: PERF402 - those before an error count
                except GmvaluatorError as error:
                    self._put_back(name, error, let_in=bool(stages))
                    return
                self._note(name, (stages[-1].sequence, stages[-1].issued_micros))

    def as_dict(self) -> dict[str, Any]:
        """What a later run goes on from; call it while nobody calls."""
        return {
            "answered": self.answered,
            "contradicted": self.contradicted,
            "cut_off": self.cut_off,
            "unexpected": self.unexpected,
            "sent": self._sent,
            "open": self._open,
        }

    @classmethod
    def from_dict(cls, image: bytes, kept: dict[str, Any]) -> Callers:
        """Go on from there. What was sent since is sent again under the same ids: the ledger has to bear it."""
        return cls(
            image,
            {name: (answer[0], answer[1]) for name, answer in kept["answered"].items()},
            kept["contradicted"],
            kept["cut_off"],
            kept["unexpected"],
            kept["sent"],
            itertools.count(kept["sent"]),
            kept["open"],
        )

    def _next(self, fresh: bool) -> str | None:
        with self._lock:
            if self._open:
                return self._open.pop()
            if not fresh:
                return None
            number = next(self._numbers)
            self._sent = number + 1
            if number % AGAIN_EVERY == AGAIN_EVERY - 1 and self.answered:
                return next(reversed(self.answered))
            return f"crash:{number}"

    def _put_back(self, name: str, error: GmvaluatorError, let_in: bool) -> None:
        with self._lock:
            self._open.append(name)
            self.cut_off += let_in
            if isinstance(error, Failure):
                self.unexpected.append(str(error))

    def _note(self, name: str, answer: tuple[int, int]) -> None:
        with self._lock:
            self.contradicted += self.answered.setdefault(name, answer) != answer


PROFILE = "stub:batch_ms=2,image_ms=2"
POINTS = 1_000
CALLERS = 8
LONGEST_LIFE_S = 1.5
MOST_EXIT_S = 60.0


class Server:
    """`gmvaluator serve` on stub models."""

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
        """Send a signal; seconds until the process has ended, and its exit code."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            code = self.process.wait(MOST_EXIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return time.monotonic() - began, code


@dataclass(slots=True)
class Ends:
    """How an attributor was ended so far, and by whom it was called; kept in the folder after every life.

    exits: seconds until the process had ended, and its exit code. done: what was sent again at the end.
    """

    callers: Callers
    exits: list[tuple[float, int]] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        text = json.dumps({"callers": self.callers.as_dict(), "exits": self.exits})
        atomic_write(path, text)

    @classmethod
    def kept(cls, path: Path) -> Ends:
        """What `keep` wrote, or the beginning."""
        image = image_files(sample_folder("generated"))[0].read_bytes()
        if not path.is_file():
            return cls(Callers(image))
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(Callers.from_dict(image, found["callers"]), [(one[0], one[1]) for one in found["exits"]])


def run_ended(
    folder: Path,
    how: str,
    times: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, answered: None,
) -> dict[str, Any]:
    """End the attributor `times` times by "kill" or "drain" (SIGTERM); figures begin with that word.

    lost: answered with FINAL and not in the ledger as answered; by a drain also what was let in and then cut off.
    doubled: postings beyond one a generation, and answers that contradict each other. What an interrupted run left in
    `folder` is gone on from. progress: told after each life, with the lives and the images answered so far.
    """
    number = signal.SIGKILL if how == "kill" else signal.SIGTERM
    data, kept = built_stub_data(folder, POINTS), folder / "ends.json"
    ends = Ends.kept(kept)
    while len(ends.exits) < times:
        chance = random.Random(f"{seed} {len(ends.exits)}")
        ends.exits.append(_one_life(data, ends.callers, number, chance.uniform(0.05, LONGEST_LIFE_S)))
        ends.keep(kept)
        progress(len(ends.exits), len(ends.callers.answered))
    cut_off = ends.callers.cut_off if how == "drain" else 0
    _send_the_rest(data, ends.callers)
    found = {**_checked(data, ends.callers, cut_off), **_exits(ends.exits, how)}
    return {f"{how}_{name}": value for name, value in found.items()}


def _one_life(data: Path, callers: Callers, number: signal.Signals, life_s: float) -> tuple[float, int]:
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
    """An attributor, which is gone afterwards even if we are interrupted."""
    server = Server(data)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def _send_the_rest(data: Path, callers: Callers) -> None:
    with _serving(data) as server:
        callers.call_until(server.address, threading.Event(), fresh=False)
        server.end(signal.SIGTERM)


def _exits(exits: list[tuple[float, int]], how: str) -> dict[str, Any]:
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
        stored = {one.header.generation_id: (one.sequence, one.header.issued_micros) for one in ledger.every_posting()}
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
