"""Browsers for the dashboard's benchmark: server-sent events read on plain sockets, and some that stop reading."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import rich_click as click

_ID = re.compile(rb"^id: (\d+)\r?$", re.MULTILINE)
STUCK_BUFFER_BYTES = 4_096
TAIL_BYTES = 64


@dataclass(slots=True)
class Seen:
    """What one client saw: sequence and when it came, newest of each; how many messages."""

    arrivals: list[tuple[int, float]] = field(default_factory=list)
    messages: int = 0


async def read(host: str, port: int, until: float) -> Seen:
    """Read a stream until a time of the monotonic clock."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    seen, tail, newest = Seen(), b"", -1
    while (left := until - time.monotonic()) > 0:
        try:
            chunk = await asyncio.wait_for(reader.read(65_536), left)
        except TimeoutError:
            break
        if not chunk:
            raise ConnectionError("the dashboard cut a client that reads")
        now = time.monotonic()
        for found in _ID.findall(tail + chunk):
            seen.messages += 1
            if int(found) > newest:
                newest = int(found)
                seen.arrivals.append((newest, now))
        # An id may be cut in two; what was matched whole is not matched again, as only an open line is kept.
        line = (tail + chunk).rpartition(b"\n")[2]
        tail = line[-TAIL_BYTES:]
    writer.close()
    return seen


async def stick(host: str, port: int, patience_s: float) -> float | None:
    """Seconds after which a client that reads nothing was cut; None if it was not."""
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER_BYTES)
    stuck.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stuck, (host, port))
    await loop.sock_sendall(stuck, b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    began = time.monotonic()
    while time.monotonic() - began < patience_s:
        await asyncio.sleep(0.5)
        if not _established(stuck):
            stuck.close()
            return time.monotonic() - began
    stuck.close()
    return None


def _established(one: socket.socket) -> bool:
    """By the kernel's own word: reading would empty the buffer, which a stuck client does not."""
    tcp_established = 1
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == tcp_established


async def run(host: str, port: int, clients: int, stuck: int, seconds: float) -> dict[str, object]:
    """All clients at once."""
    until = time.monotonic() + seconds
    cut = [asyncio.create_task(stick(host, port, seconds)) for _ in range(stuck)]
    reading = []
    for _ in range(clients):
        reading.append(asyncio.create_task(read(host, port, until)))
        await asyncio.sleep(0.002)
    seen = await asyncio.gather(*reading)
    return {
        "arrivals": [one.arrivals for one in seen],
        "messages": sum(one.messages for one in seen),
        "cut_s": [await one for one in cut],
    }


@click.command()
@click.argument("address")
@click.option("--clients", default=400)
@click.option("--stuck", default=0)
@click.option("--seconds", default=30.0)
@click.option("--out", type=click.Path(path_type=Path))
def main(address: str, clients: int, stuck: int, seconds: float, out: Path) -> None:
    """Watch the overview of ADDRESS; the result goes to a file."""
    host, _, port = address.rpartition(":")
    out.write_text(json.dumps(asyncio.run(run(host, int(port), clients, stuck, seconds))), encoding="utf-8")


if __name__ == "__main__":
    main()
