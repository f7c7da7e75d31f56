"""Fair use of the event loop: work on images yields to other callers between two images."""

from __future__ import annotations

import asyncio
from collections import deque

ROUNDS = 4
"""Rounds of the event loop between two turns: a refusal takes several, and gRPC accepts one call in each."""


class LoopScheduler:
    """A scheduler that resumes waiting coroutines in order, one every `ROUNDS` rounds of the event loop.

    A batch ends for all its images at once, and each then needs some milliseconds of the loop. If all of them were
    resumed in one round, a refusal or a health probe would wait for all of them.
    """

    def __init__(self) -> None:
        self._busy = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def yield_turn(self) -> None:
        """Wait for the caller's turn, which lasts until it next awaits."""
        if not self._busy:
            self._busy = True
            self._resume_next_after(ROUNDS)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _resume_next_after(self, rounds: int) -> None:
        if rounds == 0:
            self._resume_next()
        else:
            asyncio.get_running_loop().call_soon(self._resume_next_after, rounds - 1)

    def _resume_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            # Done means cancelled: its caller has disconnected, and the next one takes the turn.
            if not turn.done():
                turn.set_result(None)
                self._resume_next_after(ROUNDS)
                return
        self._busy = False
