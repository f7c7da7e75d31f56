"""Test that a browser that stops reading is disconnected, and others are not."""

import itertools
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from dashboard.figures.data import DataAccess
from dashboard.figures.live import Live
from dashboard.figures.overview import OverviewReader
from dashboard.server import configuration, listening, wired
from dashboard.web.settings import DashboardSettings
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting
from tests.support.waiting import DEADLINE_S, until

SEND_TIMEOUT_S = 1.0
REQUEST = b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def large_updates(data: DataAccess) -> Live:
    """Return a live state whose every update is new and large, so that buffers fill at once."""
    numbers, read = itertools.count(1), OverviewReader(data).read

    def large() -> dict[str, Any]:
        return read() | {"sequence": next(numbers), "padding": "x" * 100_000}

    return Live(large, lambda: -2, 0.05)


def established(connection: socket.socket) -> bool:
    """Return the kernel's state of a connection, without reading from it."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


def test_a_browser_that_does_not_read_is_disconnected_and_another_is_not(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    settings = DashboardSettings(DataLocation(tmp_path), send_timeout_s=SEND_TIMEOUT_S)
    with wired(settings) as context, listening("127.0.0.1:0", SEND_TIMEOUT_S) as listener:
        live = large_updates(context.data)
        server = uvicorn.Server(configuration(replace(context, live=live)))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        try:
            until(lambda: server.started)
            deadline = time.monotonic() + DEADLINE_S
            stuck, reader = socket.socket(), socket.create_connection(listener.getsockname())
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stuck.connect(listener.getsockname())
            stuck.sendall(REQUEST)
            reader.sendall(REQUEST)
            while live.streams < 2 and time.monotonic() < deadline:
                reader.recv(65_536)
            while live.streams > 1 and time.monotonic() < deadline:
                assert reader.recv(65_536)
            assert live.streams == 1
            assert reader.recv(65_536)
            until(lambda: not established(stuck))
            stuck.close()
            reader.close()
        finally:
            server.should_exit = True
            running.join(DEADLINE_S)
