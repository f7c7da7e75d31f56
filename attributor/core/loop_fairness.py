"""Work that keeps the event loop busy, one image at a time: between two of them the loop answers everyone else."""

from __future__ import annotations

import asyncio
from collections import deque

ROUNDS = 4
"""Rounds of the event loop from turn to turn: a refusal takes several, and gRPC takes in one call at a time."""


class LoopScheduler:
    """Grants a turn every few rounds of an event loop, in the order they were asked for.

    A batch ends for all its images at once. Each then needs some milliseconds of the loop, and so many in one round
    would keep a refusal, or the answer of the health service, waiting for all of them.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return once it is this coroutine's turn; what it does until it waits again is the turn."""
        if not self._taken:
            self._taken = True
            self._pass_on_after(ROUNDS)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _pass_on_after(self, rounds: int) -> None:
        if rounds == 0:
            self._pass_on()
        else:
            asyncio.get_running_loop().call_soon(self._pass_on_after, rounds - 1)

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._pass_on_after(ROUNDS)
                return
        self._taken = False
