"""Places for calls that wait: a bounded number, of which no neighbour can keep another out.

A call that waits costs its caller nothing: one that has sent headers and no message, or a watch of the health. So a new
call is not refused when all places are taken: it takes the place of the oldest call of the caller that holds the most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc

from gmvaluator.errors import Overloaded

MAX_STRANGERS = 64
"""Maximum number of calls without a token whose message is awaited."""

MAX_CONNECTION_CALLS = 16
"""Maximum number of calls of health and reflection on one connection; a client that balances its calls has one."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, eq=False)
class _Holder:
    """A call in a place. owner: token's name or network address. connection: its peer, address and port."""

    owner: str
    connection: str
    task: asyncio.Task[Any]
    displaced: bool = False


class SharedPlaces:
    """At most `maximum` places; it belongs to one event loop."""

    def __init__(self, maximum: int, refusal: str) -> None:
        """refusal: text of the error of a call that lost its place."""
        self._maximum = maximum
        self._refusal = refusal
        self._holders: dict[_Holder, None] = {}
        self._by_owner: Counter[str] = Counter()
        self._by_connection: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Places that are taken."""
        return len(self._holders)

    @asynccontextmanager
    async def place(self, owner: str, connection: str) -> AsyncIterator[None]:
        """Hold a place for the block. Raises Overloaded out of the block if a new call takes the place.

        The call that gives way is the oldest of the owner with the most places, and among equals of the connection
        with the most.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._holders) >= self._maximum:
            self._displace()
        holder = _Holder(owner, connection, task)
        self._add(holder)
        try:
            yield
        except asyncio.CancelledError:
            # As asyncio.timeout does: only our own cancellation becomes an error.
            if holder.displaced and task.uncancel() <= 0:
                raise Overloaded(self._refusal) from None
            raise
        finally:
            self._remove(holder)

    def _displace(self) -> None:
        # The first of equals is the oldest: a dict keeps the order of insertion.
        holder = max(
            self._holders,
            key=lambda candidate: (self._by_owner[candidate.owner], self._by_connection[candidate.connection]),
        )
        self._remove(holder)
        holder.displaced = True
        holder.task.cancel()

    def _add(self, holder: _Holder) -> None:
        self._holders[holder] = None
        self._by_owner[holder.owner] += 1
        self._by_connection[holder.connection] += 1

    def _remove(self, holder: _Holder) -> None:
        if holder not in self._holders:
            return
        del self._holders[holder]
        for counter, name in ((self._by_owner, holder.owner), (self._by_connection, holder.connection)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]


class ConnectionCalls:
    """A limit of the calls on one connection, counted until gRPC has ended them.

    A caller that reads nothing keeps its call after the method has returned.
    """

    def __init__(self, maximum: int = MAX_CONNECTION_CALLS) -> None:
        self._maximum = maximum
        self._live: Counter[str] = Counter()

    def count(self, context: Context) -> None:
        """Count a call until it has ended. Raises Overloaded if its connection has `maximum` already."""
        connection = context.peer()
        if self._live[connection] >= self._maximum:
            raise Overloaded(f"this connection has {self._maximum} calls of health or reflection: end some first")
        self._live[connection] += 1

        def uncount(_: object) -> None:
            self._uncount(connection)

        context.add_done_callback(cast(Any, uncount))

    def _uncount(self, connection: str) -> None:
        self._live[connection] -= 1
        if not self._live[connection]:
            del self._live[connection]


class WaitingCalls:
    """The places of one port: calls whose message is awaited, with and without a token, and watches of the health."""

    def __init__(self, max_callers: int, max_watches: int) -> None:
        late = "others wait for a place, and this call had sent no request: send the request with the call"
        self.strangers = SharedPlaces(MAX_STRANGERS, late)
        self.callers = SharedPlaces(max_callers, late)
        self.watches = SharedPlaces(max_watches, "others wait for a place to watch the health: watch it again later")
        self.connections = ConnectionCalls()


def address_of(connection: str) -> str:
    """Return the network address of a peer, such as `ipv4:192.0.2.1` of `ipv4:192.0.2.1:40000`."""
    return connection.rpartition(":")[0] or connection
