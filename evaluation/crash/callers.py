"""Callers who send images without pause, and send again what got no FINAL, as a caller has to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from evaluation.bench.serving.places import MODEL_VERSION
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Failure, GmvaluatorError

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
