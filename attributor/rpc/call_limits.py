"""The gate that every call passes: whether calls are accepted, how many at once, and the backends that serve them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from attributor.core.disputes import DisputeService
from attributor.core.pipeline import Pipeline
from attributor.rpc.admission import Admission
from gmvaluator.catalogue.store import Catalogue
from gmvaluator.errors import Overloaded, Unavailable
from gmvaluator.ledger.reader import LedgerReader

DEFAULT_PAGE = 100
"""Accounts in a page of balances, if the caller sets no size."""

WATCH_PAGE = 200
"""Postings read at once for a watcher."""

MAX_WATCHERS = 64
"""Maximum number of concurrent WatchRoyalties calls, half of it for one client."""

MAX_STREAMS = 128
"""Maximum number of concurrent AttributeStream calls, half of it for one client: each may hold a waiting image."""

MAX_QUERIES = 64
"""Maximum number of concurrent calls without an image, half of it for one client."""


@dataclass(frozen=True, slots=True)
class Backends:
    """The parts that serve calls once the attributor is warm."""

    pipeline: Pipeline
    ledger: LedgerReader
    names: Catalogue
    disputes: DisputeService


class ConcurrencyLimit:
    """A limit of `maximum` calls at once, and `per_client` of one client; it belongs to one event loop."""

    def __init__(self, maximum: int, refusal: str, per_client: int | None = None) -> None:
        """refusal: text of the error; may name {held} by all clients, and {own} by this client."""
        self._maximum = maximum
        self._refusal = refusal
        self._per_client = maximum if per_client is None else per_client
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Calls admitted now."""
        return self._held.total()

    @contextmanager
    def slot(self, client: str = "") -> Iterator[None]:
        """Hold a slot for one call. Raises Overloaded if there is none."""
        own = self._held[client]
        if self.held >= self._maximum or own >= self._per_client:
            raise Overloaded(self._refusal.format(held=self.held, own=own))
        self._held[client] += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            if not self._held[client]:
                # Clients without a token are named by their connection: the counter would grow with each.
                del self._held[client]


@dataclass(slots=True, eq=False)
class OpenStream:
    """One stream in its slot. idle: whether it has no image in flight now. gives_way: set when it has to end."""

    client: str
    idle: Callable[[], bool] = lambda: False
    gives_way: asyncio.Event = field(default_factory=asyncio.Event)


class StreamLimit:
    """A limit of `maximum` streams at once, at most half of them from one client; it belongs to one event loop.

    A client's idle streams keep no other client out: when all slots are taken, an idle stream of the client with the
    most gives way to a client that has at least two fewer.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._open: dict[OpenStream, None] = {}

    @contextmanager
    def slot(self, client: str) -> Iterator[OpenStream]:
        """Hold a slot for one stream. Raises Overloaded if there is none."""
        counts = Counter(stream.client for stream in self._open)
        own = counts[client]
        full = len(self._open) >= self._maximum and not self._made_room(counts, own)
        if full or own >= (self._maximum + 1) // 2:
            raise Overloaded(
                f"{len(self._open)} streams are open, {own} of them yours: send more images on each, or open this one "
                "later"
            )
        stream = OpenStream(client)
        self._open[stream] = None
        try:
            yield stream
        finally:
            self._open.pop(stream, None)

    def _made_room(self, counts: Counter[str], own: int) -> bool:
        """End the oldest idle stream of the client with the most, if that has more than the newcomer will have."""
        idle = [stream for stream in self._open if counts[stream.client] > own + 1 and stream.idle()]
        if not idle:
            return False
        stream = max(idle, key=lambda candidate: counts[candidate.client])
        del self._open[stream]
        stream.gives_way.set()
        return True


class CallGate:
    """A gate that accepts calls between `open` and `close`, a bounded number at once.

    `Admission` bounds calls with an image by calls and pixels; the other calls are bounded by number only.
    """

    def __init__(
        self,
        admission: Admission,
        max_watchers: int = MAX_WATCHERS,
        max_queries: int = MAX_QUERIES,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._admission = admission
        self.watchers = ConcurrencyLimit(
            max_watchers,
            "{held} watchers are connected, {own} of them yours: watch from one place and pass it on",
            per_client=(max_watchers + 1) // 2,
        )
        self._queries = ConcurrencyLimit(
            max_queries,
            "{held} questions are being answered, {own} of them yours: ask again later",
            per_client=(max_queries + 1) // 2,
        )
        self._streams = StreamLimit(max_streams)
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._backends: Backends | None = None
        self._why_closed = "the attributor is starting: wait until its health says SERVING"

    def open(self, backends: Backends) -> None:
        """Accept calls from now on."""
        self._backends = backends

    def close(self) -> None:
        """Refuse new calls; calls in flight go on."""
        self._backends = None
        self._why_closed = "the attributor is stopping: send the call again, with the same id, to another or later"

    @property
    def backends(self) -> Backends:
        """The parts that serve calls. Raises Unavailable before `open` and after `close`."""
        if self._backends is None:
            raise Unavailable(self._why_closed)
        return self._backends

    @contextmanager
    def admit(self, client: str, pixels: int) -> Iterator[Pipeline]:
        """Admit one image of a client. Raises Unavailable, or Overloaded if there is no room for it now."""
        pipeline = self.backends.pipeline
        with self._admission.admit(client, pixels), self._in_flight():
            yield pipeline

    @asynccontextmanager
    async def wait(self, client: str, pixels: int) -> AsyncIterator[Pipeline]:
        """Admit one image of a client once there is room. Raises Unavailable."""
        _ = self.backends
        async with self._admission.wait(client, pixels):
            # Read again: the gate may have been closed while this call waited.
            pipeline = self.backends.pipeline
            with self._in_flight():
                yield pipeline

    @contextmanager
    def stream(self, client: str) -> Iterator[OpenStream]:
        """Admit one stream of a client; each of its images is admitted by `wait`.

        Raises Unavailable, or Overloaded if there are too many streams, or too many of this client.
        """
        _ = self.backends
        with self._streams.slot(client) as stream:
            yield stream

    @contextmanager
    def query(self, client: str) -> Iterator[Backends]:
        """Admit one call of a client without an image.

        Raises Unavailable, or Overloaded if there are too many, or too many of this client.
        """
        backends = self.backends
        with self._queries.slot(client), self._in_flight():
            yield backends

    @contextmanager
    def watch(self, client: str) -> Iterator[LedgerReader]:
        """Admit one watcher of the ledger.

        Raises Unavailable, or Overloaded if there are too many, or too many of this client.

        Watchers do not count as in flight: a drain does not wait for them, since each ends when the drain begins.
        """
        ledger = self.backends.ledger
        with self.watchers.slot(client):
            yield ledger

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        self.in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()
