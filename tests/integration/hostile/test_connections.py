"""Slow, half-open, malformed and broken connections: the next good client is served."""

import socket
import time
import uuid
from typing import Any

import pytest

from gmvaluator.client.connection import Connection
from gmvaluator.v1 import attribution_pb2 as v1
from gmvaluator.v1 import royalty_pb2
from tests.integration.hostile.conftest import GOOD, MODEL_VERSION, Target

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int = 0, stream: int = 0, body: bytes = b"", length: int | None = None) -> bytes:
    """One frame of HTTP/2; `length` may lie."""
    size = len(body) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


SETTINGS = PREFACE + frame(4)
HEADERS = frame(1, 4, 1, b"\x83\x86\x44\x01/\x41\x01x")
BYTES = {
    "nothing": b"", "half of the preface": PREFACE[:12], "the preface": PREFACE, "settings": SETTINGS,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "noise": bytes(range(256)) * 40, "zeros": bytes(10_000), "SSH": b"SSH-2.0-x\r\n",
    "a frame cut short": SETTINGS + frame(0, 0, 1, b"x", 100), "a frame of 16 MB promised": SETTINGS + frame(0, 0, 1, b"", 2**24 - 1),
    "data on stream 0": SETTINGS + frame(0, 0, 0, b"x"), "data on no stream": SETTINGS + frame(0, 0, 77, b"x"),
    "headers that are noise": SETTINGS + frame(1, 4, 1, b"\xff" * 50), "headers without end": SETTINGS + frame(1, 0, 1, b"\x83"),
    "a stream begun and left": SETTINGS + HEADERS, "an unknown frame": SETTINGS + frame(200, 0, 0, b"x" * 100),
    "10,000 pings": SETTINGS + frame(6, 0, 0, bytes(8)) * 10_000, "10,000 settings": SETTINGS + frame(4) * 10_000,
    "10,000 empty data": SETTINGS + HEADERS + frame(0, 0, 1) * 10_000,
    "1,000 continuations": SETTINGS + frame(1, 0, 1, b"\x83") + frame(9, 0, 1, b"\x40\x01x\x01y") * 1_000,
    "a window of zero": SETTINGS + frame(4, 0, 0, b"\0\4\0\0\0\0") + HEADERS, "a window too large": SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff"),
    "5,000 streams reset": SETTINGS + b"".join(frame(1, 5, n, HEADERS[9:]) + frame(3, 0, n, b"\0\0\0\x08") for n in range(1, 10_000, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_rude_connections_bother_nobody(target: Target, name: str) -> None:
    host, _, port = target.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(BYTES[name])
        except (ConnectionError, TimeoutError):
            return  # it was shut out while it spoke
        target.check_unaffected()


def test_a_hundred_half_open_connections_bother_nobody(target: Target) -> None:
    host, _, port = target.address.rpartition(":")
    opened = [socket.create_connection((host, int(port)), timeout=5) for _ in range(100)]
    for connection in opened:
        connection.sendall(PREFACE[:10])
    target.check_unaffected()
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.005, 0.02])
def test_floods_of_cancelled_calls_leave_room(target: Target, after_s: float) -> None:
    stub: Any = target.channel.unary_stream("/gmvaluator.v1.AttributionService/Attribute")
    for _ in range(100):
        request = v1.AttributeRequest(generation_id=f"t:{uuid.uuid4()}", model_version=MODEL_VERSION, image=GOOD)
        call = stub(request.SerializeToString(), timeout=20)
        time.sleep(after_s / 10)
        call.cancel()


def test_watchers_who_do_not_read_bother_nobody(target: Target) -> None:
    with Connection(target.address).channel() as channel:
        stub: Any = channel.unary_stream("/gmvaluator.v1.RoyaltyService/WatchRoyalties")
        calls = [stub(royalty_pb2.WatchRoyaltiesRequest().SerializeToString()) for _ in range(30)]
        target.check_unaffected()
        for call in calls:
            call.cancel()
