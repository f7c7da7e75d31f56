"""Browsers for the dashboard's benchmark: server-sent events read on plain sockets, and some that stop reading."""

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
SILENCE_S = 30.0
LOOK_S = 0.25
TAIL_BYTES = 64


@dataclass(slots=True)
class Seen:
    """What one client saw: sequence and when it came, newest of each; how many messages."""

    arrivals: list[tuple[int, float]] = field(default_factory=list)
    messages: int = 0


async def read(host: str, port: int, seen: Seen, ended: asyncio.Event) -> None:
    """Read a stream into `seen` until it is to end."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
    tail, newest = b"", -1
    while not ended.is_set():
        # Messages come every two seconds at least: whoever waits for longer was cut or forgotten.
        chunk = await asyncio.wait_for(reader.read(65_536), SILENCE_S)
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


async def stick(host: str, port: int, patience_s: float) -> float | None:
    """Seconds from when nothing more reached a client that reads nothing until it was cut; None if it was not."""
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER_BYTES)
    stuck.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stuck, (host, port))
    await loop.sock_sendall(stuck, b"GET /live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    began = full_at = time.monotonic()
    waiting, cut_s = 0, None
    while cut_s is None and time.monotonic() - began < patience_s:
        await asyncio.sleep(LOOK_S)
        if not _established(stuck):
            cut_s = time.monotonic() - full_at
        elif (now_waiting := _waiting_bytes(stuck)) != waiting:
            waiting, full_at = now_waiting, time.monotonic()
    stuck.close()
    return cut_s


def _waiting_bytes(one: socket.socket) -> int:
    """What has come and was not read."""
    answer = fcntl.ioctl(one, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _established(one: socket.socket) -> bool:
    """By the kernel's own word: reading would empty the buffer, which a stuck client does not."""
    tcp_established = 1
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == tcp_established


async def run(host: str, port: int, clients: int, stuck: int, seconds: float) -> dict[str, object]:
    """All clients at once, for `seconds` from when all of them have the state, or until those that stick are cut."""
    seen, ended = [Seen() for _ in range(clients)], asyncio.Event()
    cut = [asyncio.create_task(stick(host, port, seconds)) for _ in range(stuck)]
    reading = []
    for one in seen:
        reading.append(asyncio.create_task(read(host, port, one, ended)))
        await asyncio.sleep(0.002)
    while not all(one.arrivals for one in seen):
        await asyncio.sleep(0.05)
        _raise_ended(reading)
    print("ready", flush=True)  # noqa: T201 - told to the benchmark, which measures from here on
    before = sum(one.messages for one in seen)
    if stuck:
        found = await asyncio.gather(*cut)
    else:
        found = await asyncio.sleep(seconds, [])
    messages = sum(one.messages for one in seen) - before
    _raise_ended(reading)
    ended.set()
    await asyncio.gather(*reading)
    return {"arrivals": [one.arrivals for one in seen], "messages": messages, "cut_s": found}


def _raise_ended(reading: list[asyncio.Task[None]]) -> None:
    """Whoever ended before their time did so by an error."""
    for one in reading:
        if one.done():
            one.result()


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
