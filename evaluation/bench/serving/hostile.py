"""Latency of rejecting hostile requests: decompression bombs, floods of chunks, truncated files, random bytes."""

from __future__ import annotations

import io
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from evaluation.bench.serving.load import image_files
from evaluation.bench.serving.setup import MODEL_VERSION, Lags, serving
from gmvaluator.client.connection import Connection
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.v1 import attribution_pb2 as attribution_v1

PROFILE = "stub:image_ms=2"
METHOD = "/gmvaluator.v1.AttributionService/Attribute"
REFUSED = ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
MIB = 1024 * 1024
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def hostile(data: Path, images: Path, lags: Lags, times: int) -> dict[str, Any]:
    """Send each kind of hostile request `times` times on one connection, with a good image in between.

    hostile_refusal_*: time from sending a complete request until the caller has its status. hostile_not_refused:
    requests that did not end with INVALID_ARGUMENT or FAILED_PRECONDITION, and good images that failed.
    hostile_worst_kind: the kind with the highest median.
    """
    good = image_files(images)[0].read_bytes()
    kinds = dict(hostile_requests(good))
    latencies_ms: dict[str, list[float]] = {name: [] for name in kinds}
    wrong = 0
    with serving(data, "--profile", PROFILE) as running, Connection(running.address).channel() as channel:
        for _ in range(times):
            for name, request in kinds.items():
                began = time.monotonic()
                status = _status(channel, request)
                latencies_ms[name].append((time.monotonic() - began) * 1000)
                wrong += status not in REFUSED
                wrong += _status(channel, _request(good, uuid.uuid4().hex).SerializeToString()) != "OK"
        lags.add(running)
    all_ms = [ms for values in latencies_ms.values() for ms in values]
    return {
        "hostile_refusal_p99_ms": float(np.percentile(all_ms, 99)),
        "hostile_refusal_p50_ms": float(np.percentile(all_ms, 50)),
        "hostile_requests": len(all_ms),
        "hostile_not_refused": wrong,
        "hostile_worst_kind": max(latencies_ms, key=lambda name: float(np.median(latencies_ms[name]))),
    }


def hostile_requests(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield hostile requests as a name and serialised bytes. good: a valid JPEG, from which some are derived."""
    for name, image in _images(good):
        yield name, _request(image).SerializeToString()
    yield "an evil id", _request(good, "a\u202eb\0" + "x" * 10_000).SerializeToString()
    yield "an unknown generator", _request(good, model_version="nobody's").SerializeToString()
    yield "no message", bytes(np.random.default_rng(1).integers(0, 256, 100_000, np.uint8))
    yield "groups 100,000 deep", b"\xa3\x38" * 100_000
    vector = np.full(65_536, np.nan, np.float32)
    embedding = attribution_v1.Embedding(
        profile_hash="x", recall=vector, perceptual=vector, image_sha256=bytes(32), width=1, height=1, size_bytes=1
    )
    request = attribution_v1.AttributeRequest(generation_id="nan", model_version=MODEL_VERSION, embedding=embedding)
    yield "an embedding of NaN", request.SerializeToString()


def _images(good: bytes) -> Iterator[tuple[str, bytes]]:
    yield "an empty file", b""
    yield "zeros, 20 MiB", bytes(MAX_IMAGE_BYTES)
    yield "noise, 1 MiB", np.random.default_rng(2).bytes(MIB)
    yield "20 MiB and one byte", bytes(MAX_IMAGE_BYTES + 1)
    yield "40 MiB", bytes(2 * MAX_IMAGE_BYTES)
    yield "a JPEG cut in half", good[: len(good) // 2]
    yield "a JPEG with a line before it", b"\n" + good
    yield "a GIF", _encoded(Image.new("P", (64, 64)), "GIF")
    yield "a TIFF", _encoded(Image.new("RGB", (64, 64)), "TIFF")
    yield "HTML", b"<!doctype html><img src=x onerror=alert(1)>" * 100
    yield "a pixel bomb", _png(13_000, 13_000, zlib.compress(bytes(64 * MIB), 1))
    yield "the largest sides", _png(2**31 - 1, 2**31 - 1, b"")
    yield "zipped text, 64 MiB", _png(8, 8, _BLACK, _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 * MIB), 1)))
    yield "text, 19 MiB", _png(8, 8, _BLACK, _chunk(b"tEXt", b"k\0" + b"x" * (19 * MIB)))
    yield "a million chunks", _png(8, 8, _BLACK, _chunk(b"prVt") * 1_000_000)
    yield "pixels that are no zlib", _png(512, 512, b"\xff" * 4_000)
    yield "pixels that end early", _png(4_000, 4_000, zlib.compress(bytes(12 * MIB), 1))
    frames = [Image.new("RGB", (64, 64), (number, 1, 1)) for number in range(20)]
    yield "an animated WebP", _encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "an animated PNG", _encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


_BLACK = zlib.compress(bytes(9) * 8)


def _request(
    image: bytes, name: str = "hostile", model_version: str = MODEL_VERSION
) -> attribution_v1.AttributeRequest:
    return attribution_v1.AttributeRequest(generation_id=name, model_version=model_version, image=image)


def _status(channel: grpc.Channel, request: bytes) -> str:
    call: Any = channel.unary_stream(METHOD)
    try:
        for _ in call(request, timeout=60):
            pass
    except grpc.RpcError as error:
        code: Any = error
        return str(code.code().name)
    return "OK"


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, pixels: bytes, extra: bytes = b"") -> bytes:
    """Return a grey PNG whose header declares a size that its data need not have."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return _SIGNATURE + header + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND")
