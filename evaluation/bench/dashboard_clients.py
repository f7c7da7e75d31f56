"""Clients of the dashboard benchmark: readers of server-sent events on plain sockets, and clients that never read."""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import socket
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

import rich_click as click

_ID = re.compile(rb"^id: (\d+)\r?$", re.MULTILINE)
STUCK_BUFFER_BYTES = 4_096
"""Receive buffer of a client that never reads."""

SILENCE_S = 30.0
"""Longest wait of a reader for data, in seconds; messages come at least every two seconds."""

POLL_S = 0.25
TAIL_BYTES = 64
"""Bytes kept of an incomplete line."""


@dataclass(slots=True)
class Received:
    """The messages of one client: each new highest sequence number with its time, and the number of messages."""

    arrivals: list[tuple[int, float]] = field(default_factory=list)
    messages: int = 0


async def read(host: str, port: int, received: Received, ended: asyncio.Event) -> None:
    """Read a stream into `received` until `ended` is set. Raises ConnectionError, TimeoutError."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    tail, newest = b"", -1
    while not ended.is_set():
        chunk = await asyncio.wait_for(reader.read(65_536), SILENCE_S)
        if not chunk:
            raise ConnectionError("the dashboard cut a client that reads")
        now = time.monotonic()
        for sequence in map(int, _ID.findall(tail + chunk)):
            received.messages += 1
            if sequence > newest:
                newest = sequence
                received.arrivals.append((newest, now))
        # A chunk may end within an id, so the incomplete line is kept; complete ones are not matched again.
        line = (tail + chunk).rpartition(b"\n")[2]
        tail = line[-TAIL_BYTES:]
    writer.close()


async def never_read(host: str, port: int, patience_s: float) -> float | None:
    """Open a stream without reading it; return the seconds from its last data until the server cut it, or None."""
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER_BYTES)
    stuck.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stuck, (host, port))
    await loop.sock_sendall(stuck, b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    began = full_at = time.monotonic()
    buffered, cut_s = 0, None
    while cut_s is None and time.monotonic() - began < patience_s:
        await asyncio.sleep(POLL_S)
        if not _established(stuck):
            cut_s = time.monotonic() - full_at
        elif (buffered_now := _buffered_bytes(stuck)) != buffered:
            buffered, full_at = buffered_now, time.monotonic()
    stuck.close()
    return cut_s


def _buffered_bytes(connection: socket.socket) -> int:
    """Return the number of bytes that have arrived and were not read."""
    answer = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _established(connection: socket.socket) -> bool:
    """Return whether the connection is open, without reading from it."""
    tcp_established = 1
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == tcp_established


async def run(host: str, port: int, clients: int, stuck: int, seconds: float) -> dict[str, object]:
    """Run all clients, for `seconds` after every reader has the state, or until those that never read are cut."""
    received, ended = [Received() for _ in range(clients)], asyncio.Event()
    cut = [asyncio.create_task(never_read(host, port, seconds)) for _ in range(stuck)]
    readers = []
    for client in received:
        readers.append(asyncio.create_task(read(host, port, client, ended)))
        await asyncio.sleep(0.002)
    while not all(client.arrivals for client in received):
        await asyncio.sleep(0.05)
        _raise_failed(readers)
    print("ready", flush=True)  # noqa: T201 - the benchmark measures from here on
    before = sum(client.messages for client in received)
    if stuck:
        cut_s = await asyncio.gather(*cut)
    else:
        cut_s = await asyncio.sleep(seconds, [])
    messages = sum(client.messages for client in received) - before
    _raise_failed(readers)
    ended.set()
    await asyncio.gather(*readers)
    return {"arrivals": [client.arrivals for client in received], "messages": messages, "cut_s": cut_s}


def _raise_failed(readers: list[asyncio.Task[None]]) -> None:
    """Raise the error of a reader that ended early."""
    for reader in readers:
        if reader.done():
            reader.result()


@click.command()
@click.argument("address")
@click.option("--clients", default=400)
@click.option("--stuck", default=0)
@click.option("--seconds", default=30.0)
@click.option("--out", type=click.Path(path_type=Path))
def main(address: str, clients: int, stuck: int, seconds: float, out: Path) -> None:
    """Watch the overview of ADDRESS, and write what was received to a file."""
    host, _, port = address.rpartition(":")
    out.write_text(json.dumps(asyncio.run(run(host, int(port), clients, stuck, seconds))), encoding="utf-8")


if __name__ == "__main__":
    main()
