"""The attributor ended under load, again and again: by kill -9, or by SIGTERM. Nothing accepted is lost or doubled.

Callers send images to stub models without pause, and what got no FINAL again under the same id, as a caller has to.
Now and then one sends what was answered already, as one does who lost the answer.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.bench.load import image_files
from evaluation.bench.serving.places import MODEL_VERSION, stub_data
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Failure, GmvaluatorError
from gmvaluator.ledger.store import open_ledger
from gmvaluator.processes import own_environment
from gmvaluator.samples import sample_folder

PROFILE = "stub:batch_ms=2,image_ms=2"
POINTS = 1_000
CALLERS = 8
LONGEST_LIFE_S = 1.5
MOST_EXIT_S = 60.0


@dataclass(slots=True)
class Callers:
    """What all callers sent and were answered: generation to (sequence, issued micro-credits)."""

    image: bytes
    answered: dict[str, tuple[int, int]] = field(default_factory=dict)
    contradicted: int = 0
    unexpected: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)
    _open: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call_until(self, address: str, stopped: threading.Event, fresh: bool = True) -> None:
        """Call until `stopped`, or until a call fails; fresh: new images, once nothing waits to be sent again."""
        with AttributorClient(address, deadline_s=20) as client:
            while not stopped.is_set() and (name := self._next(fresh)) is not None:
                try:
                    *_, final = client.attribute(self.image, name, MODEL_VERSION)
                except GmvaluatorError as error:
                    self._put_back(name, error)
                    return
                self._note(name, (final.sequence, final.issued_micros))

    def _next(self, fresh: bool) -> str | None:
        with self._lock:
            if self._open:
                return self._open.pop()
            if not fresh:
                return None
            number = next(self._numbers)
            if number % 50 == 49 and self.answered:
                return next(reversed(self.answered))
            return f"crash:{number}"

    def _put_back(self, name: str, error: GmvaluatorError) -> None:
        with self._lock:
            self._open.append(name)
            if isinstance(error, Failure):
                self.unexpected.append(str(error))

    def _note(self, name: str, answer: tuple[int, int]) -> None:
        with self._lock:
            self.contradicted += self.answered.setdefault(name, answer) != answer


class Server:
    """`gmvaluator serve` on stub models."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "gmvaluator", "serve", "--address", "127.0.0.1:0", "--json"]
        command += ["--data", str(data), "--profile", PROFILE]
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=own_environment()
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"the attributor ended with exit code {self.process.wait()}: run it by hand to see why")
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


def run_ended(folder: Path, how: str, times: int, seed: int) -> dict[str, Any]:
    """End the attributor `times` times by "kill" or "drain" (SIGTERM); figures begin with that word.

    lost: answered with FINAL and not in the ledger as answered. doubled: postings beyond one a generation, and answers
    that contradict each other.
    """
    number = signal.SIGKILL if how == "kill" else signal.SIGTERM
    data, chance = stub_data(folder, POINTS), random.Random(seed)  # noqa: S311 - a schedule, not a secret
    callers = Callers(_image())
    exits = [_one_life(data, callers, number, chance.uniform(0.05, LONGEST_LIFE_S)) for _ in range(times)]
    _send_the_rest(data, callers)
    return {f"{how}_{name}": value for name, value in {**_checked(data, callers), **_exits(exits, how)}.items()}


def _one_life(data: Path, callers: Callers, number: signal.Signals, life_s: float) -> tuple[float, int]:
    server, stopped = Server(data), threading.Event()
    threads = [threading.Thread(target=callers.call_until, args=(server.address, stopped)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    time.sleep(life_s)
    ended = server.end(number)
    stopped.set()
    for thread in threads:
        thread.join()
    return ended


def _send_the_rest(data: Path, callers: Callers) -> None:
    server = Server(data)
    try:
        callers.call_until(server.address, threading.Event(), fresh=False)
    finally:
        server.end(signal.SIGTERM)


def _exits(exits: list[tuple[float, int]], how: str) -> dict[str, Any]:
    if how == "kill":
        return {"times": len(exits)}
    return {
        "times": len(exits),
        "exit_max_s": max(seconds for seconds, _ in exits),
        "exit_codes_wrong": sum(code != 0 for _, code in exits),
    }


def _checked(data: Path, callers: Callers) -> dict[str, Any]:
    with open_ledger(data) as ledger:
        verification, totals = ledger.verify(), ledger.totals()
        stored = {one.header.generation_id: (one.sequence, one.header.issued_micros) for one in ledger.every_posting()}
    lost = [name for name, answer in callers.answered.items() if stored.get(name) != answer]
    issued = sum(micros for _, micros in stored.values())
    return {
        "answered": len(callers.answered),
        "postings": totals.postings,
        "lost": len(lost),
        "doubled": callers.contradicted + totals.postings - len(stored),
        "not_sent_again": len(set(stored) - set(callers.answered)),
        "sums_equal": totals.reconciles and totals.issued_micros == issued,
        "verify_ok": verification.ok,
        "unexpected_errors": callers.unexpected[:5],
    }


def _image() -> bytes:
    return image_files(sample_folder("generated"))[0].read_bytes()
