"""Requests that never end: they are closed in time, and everyone else is served meanwhile."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn

from dashboard.server import configuration, listening, wired
from dashboard.web.connection import Connection
from dashboard.web.connection_limit import ConnectionLimit
from dashboard.web.settings import DashboardSettings
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting
from tests.support.waiting import DEADLINE_S, until

Address = tuple[str, int]
HALVES = {
    "nothing": b"",
    "half a line": b"GET /hea",
    "half of the headers": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-",
    "half a form": b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\ntoken=",
    "half a chunk": b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nx",
    "a second half": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /hea",
}


@contextmanager
def served(folder: Path, timeout_s: float = 60.0, **settings: Any) -> Iterator[Address]:
    """Serve a dashboard whose requests may take `timeout_s` for their head, and for their body."""
    with open_ledger(folder, write=True) as ledger:
        ledger.post([sample_posting(1)])
    chosen = replace(DashboardSettings(DataLocation(folder)), **settings)
    with wired(chosen) as context, listening("127.0.0.1:0", 30) as listener:
        config = configuration(context)
        limit = ConnectionLimit(chosen.connections_per_address)
        config.http = cast(Any, partial(Connection, limit=limit, head_s=timeout_s, body_s=timeout_s))
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        try:
            until(lambda: server.started)
            yield listener.getsockname()
        finally:
            server.should_exit = True
            running.join(DEADLINE_S)


def opened(address: Address, data: bytes) -> socket.socket:
    connection = socket.create_connection(address, DEADLINE_S)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Read until the server closes the connection, or raise TimeoutError."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


def was_closed(connection: socket.socket) -> bool:
    """Read what has arrived, and return whether the server closed the connection."""
    connection.settimeout(0.2)
    try:
        return is_closed(connection)
    except TimeoutError:
        return False


def healthy(address: Address) -> bool:
    with opened(address, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n") as connection:
        return connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("half", HALVES)
def test_a_request_that_never_ends_is_closed(tmp_path: Path, half: str) -> None:
    with served(tmp_path, 0.2) as address, opened(address, HALVES[half]) as connection:
        assert is_closed(connection)
        assert healthy(address)


@pytest.mark.parametrize("half", ["half a line", "half a form"])
def test_everyone_is_served_beside_more_half_requests_than_there_are_places(tmp_path: Path, half: str) -> None:
    with served(tmp_path, connections_per_address=20) as address:
        halves = [opened(address, HALVES[half]) for _ in range(60)]
        assert all(healthy(address) for _ in range(5))
        assert all(is_closed(connection) for connection in halves[:40])
        for connection in halves:
            connection.close()


def test_a_stream_that_is_being_answered_keeps_its_place(tmp_path: Path) -> None:
    request = b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with served(tmp_path, connections_per_address=5) as address, opened(address, request) as stream:
        assert stream.recv(12) == b"HTTP/1.1 200"
        halves = [opened(address, HALVES["half a line"]) for _ in range(30)]
        assert healthy(address)
        assert not was_closed(stream)
        for connection in halves:
            connection.close()


def test_a_half_request_does_not_hold_up_the_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with served(tmp_path) as address:
        connection = opened(address, HALVES["half a form"])
        assert healthy(address)
    assert is_closed(connection)
    assert "Traceback" not in capfd.readouterr().err
    connection.close()
