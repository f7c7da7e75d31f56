"""A browser that stops reading is cut, and the others go on."""

import itertools
import socket
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from dashboard.figures.live import Live
from dashboard.server import configuration, listening, wired
from dashboard.web.settings import DashboardSettings
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting

SEND_TIMEOUT_S = 1.0
PATIENCE_S = 30.0
REQUEST = b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def grown(live: Live) -> Live:
    """The same, but each state is a new one, and large, so that buffers fill at once."""
    numbers, read = itertools.count(1), live._read

    def large() -> dict[str, Any]:
        return read() | {"sequence": next(numbers), "padding": "x" * 100_000}

    live._read = large
    live._head = lambda: -2
    return live


def established(one: socket.socket) -> bool:
    """By the kernel's word, without reading what has come."""
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


def test_a_browser_that_does_not_read_is_cut_and_another_goes_on(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(1)])
    settings = DashboardSettings(DataLocation(tmp_path), update_s=0.05, send_timeout_s=SEND_TIMEOUT_S)
    with wired(settings) as parts, listening("127.0.0.1:0", SEND_TIMEOUT_S) as listener:
        live = grown(parts.live)
        server = uvicorn.Server(configuration(parts))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.05)
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
            while established(stuck) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not established(stuck)
            stuck.close()
            reader.close()
        finally:
            server.should_exit = True
            running.join(PATIENCE_S)
