"""A browser's connection with a small write buffer, which a stream may close at once."""

from __future__ import annotations

import os
import socket
import struct
from asyncio import Transport
from collections.abc import Callable, MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

WRITE_BUFFER_BYTES = 16 * 1024
"""Bytes of the write buffer; beyond it a send waits, and its timeout begins."""

_CLOSE = "gmvaluator.close_now"
"""Key of the function in the extensions of a request's scope."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP protocol, whose requests can close the connection at once."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(MutableMapping[str, Any], self.scope)["extensions"] = {_CLOSE: self._close_now}

    def _close_now(self) -> None:
        # A reset: a normal close would wait, without end, until the browser has read what is buffered.
        transport_socket = self.transport.get_extra_info("socket")
        if transport_socket is not None:
            # Of a duplicate descriptor, as the transport owns the original and will close it.
            with socket.socket(fileno=os.dup(transport_socket.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.transport.abort()


def close_now(scope: MutableMapping[str, Any]) -> None:
    """Close the connection of a request at once, if its server can."""
    close: Callable[[], None] | None = scope.get("extensions", {}).get(_CLOSE)
    if close is not None:
        close()
