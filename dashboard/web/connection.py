"""A browser's connection: a small write buffer, time limits for requests, and a place among the others."""

from __future__ import annotations

import os
import socket
import struct
from asyncio import TimerHandle, Transport
from collections.abc import Callable, MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dashboard.web.connection_limit import ConnectionLimit

WRITE_BUFFER_BYTES = 16 * 1024
"""Bytes of the write buffer; beyond it a send waits, and its timeout begins."""

HEAD_TIMEOUT_S = 10.0
"""Time for a request's line and headers, from the connection's begin or the request's first byte."""

BODY_TIMEOUT_S = 60.0
"""Time for a request's body: 20 MiB at 3 Mbit/s."""

_CLOSE = "gmvaluator.close_now"
"""Key of the function in the extensions of a request's scope."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with time limits and a limit of connections; requests can close it at once.

    head_s, body_s: time for a request's head and body, in seconds.
    """

    def __init__(
        self,
        *args: Any,
        limit: ConnectionLimit,
        head_s: float = HEAD_TIMEOUT_S,
        body_s: float = BODY_TIMEOUT_S,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._limit = limit
        self._head_s = head_s
        self._body_s = body_s
        self._timer: TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """True if a whole request has arrived that is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self._limit.admit(self, self._host):
            self._close_in(self._head_s)
        else:
            self.close_now()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._limit.release(self, self._host)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(MutableMapping[str, Any], self.scope)["extensions"] = {_CLOSE: self.close_now}
        self._close_in(self._head_s)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._close_in(self._body_s)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._cancel_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit.touch(self, self._host)

    def shutdown(self) -> None:
        """Close the connection, after the response to a whole request."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            # The rest of this request may never arrive.
            self.close_now()
        else:
            super().shutdown()

    def close_now(self) -> None:
        """Close the connection at once, whatever is buffered."""
        # A reset: a normal close would wait, without end, until the browser has read what is buffered.
        transport_socket = self.transport.get_extra_info("socket")
        if transport_socket is not None and transport_socket.fileno() >= 0:
            # Of a duplicate descriptor, as the transport owns the original and will close it.
            with socket.socket(fileno=os.dup(transport_socket.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.transport.abort()

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    def _close_in(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, self.close_now)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def close_now(scope: MutableMapping[str, Any]) -> None:
    """Close the connection of a request at once, if its server can."""
    close: Callable[[], None] | None = scope.get("extensions", {}).get(_CLOSE)
    if close is not None:
        close()
