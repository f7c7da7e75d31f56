"""One browser's connection: little is kept of what it does not read, and a stream may cut it."""

from __future__ import annotations

import os
import socket
import struct
from asyncio import Transport
from collections.abc import Callable, MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

WRITE_BUFFER_BYTES = 16 * 1024
"""Beyond this a send waits, which is when a browser's time to read begins."""
_CUT = "gmvaluator.cut"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Connection(HttpToolsProtocol):
    """uvicorn's own, whose requests know how to cut it."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(MutableMapping[str, Any], self.scope)["extensions"] = {_CUT: self._cut}

    def _cut(self) -> None:
        """Reset it: closing would wait for ever to deliver what is not read, and tell the browser nothing."""
        known = self.transport.get_extra_info("socket")
        if known is not None:
            with socket.socket(fileno=os.dup(known.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.transport.abort()


def cut(scope: MutableMapping[str, Any]) -> None:
    """End the connection of a request at once, if its server can."""
    found: Callable[[], None] | None = scope.get("extensions", {}).get(_CUT)
    if found is not None:
        found()
