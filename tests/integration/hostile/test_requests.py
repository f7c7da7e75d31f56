"""Malformed and malicious requests."""

import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmvaluator.errors import InvalidVector
from gmvaluator.index.vectors import checked_vector
from gmvaluator.v1 import attribution_pb2 as v1
from gmvaluator.v1 import royalty_pb2
from tests.integration.hostile.conftest import GOOD, MODEL_VERSION, Target, encoded

INVALID, OK = "INVALID_ARGUMENT", "OK"


def good_request(**changes: object) -> bytes:
    fields = {"generation_id": f"t:{uuid.uuid4()}", "model_version": MODEL_VERSION, "image": GOOD, **changes}
    return v1.AttributeRequest(**fields).SerializeToString()  # type: ignore[arg-type]


def varint(number: int) -> bytes:
    encoded_bytes = b""
    while number > 127:
        encoded_bytes += bytes([number & 127 | 128])
        number >>= 7
    return encoded_bytes + bytes([number])


def field(number: int, body: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def nested(depth: int, number: int = 4) -> bytes:
    body = b""
    for _ in range(depth):
        body = field(number, body)
    return body


def groups(depth: int) -> bytes:
    return varint(900 << 3 | 3) * depth + varint(900 << 3 | 4) * depth


SHAPES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", INVALID),
    "an unknown field": (good_request() + field(900, b"x"), OK),
    "a thousand unknown fields": (good_request() + b"".join(field(900 + n, b"x") for n in range(1_000)), OK),
    "a million unknown bytes": (good_request() + field(900, bytes(1_000_000)), OK),
    "22 million unknown bytes": (good_request() + field(900, bytes(22 * 1024 * 1024)), INVALID),
    "unknown fields 1,000 deep": (good_request() + field(900, nested(1_000)), OK),
    "a time 10 deep": (good_request() + nested(10), INVALID),
    "groups 10 deep": (good_request() + groups(10), OK),
    "groups 200 deep": (good_request() + groups(200), INVALID),
    "groups 100,000 deep": (good_request() + groups(100_000), INVALID),
    "a group without end": (good_request() + varint(900 << 3 | 3), INVALID),
    "a group's end alone": (good_request() + varint(900 << 3 | 4), INVALID),
    "a cut message": (good_request()[:-1], INVALID),
    "a length beyond the end": (good_request() + b"\x1a\xff\xff\xff\x7f", INVALID),
    "a negative length": (good_request() + b"\x1a" + b"\xff" * 9 + b"\x01", INVALID),
    "a varint without end": (good_request() + b"\xff" * 11, INVALID),
    "field number 0": (good_request() + b"\x02\x00", INVALID),
    "a wire type there is not": (good_request() + b"\x07", INVALID),
    "an id that is no UTF-8": (field(1, b"\xff\xfe") + field(2, b"demo") + field(3, GOOD), INVALID),
    "an id as a number": (b"\x08\x01" + field(2, b"demo") + field(3, GOOD), INVALID),
    "the image twice, the last a good one": (good_request() + field(3, b"x") + field(3, GOOD), OK),
    "the image twice, the last a bad one": (good_request() + field(3, b"x"), INVALID),
    "no image": (good_request(image=b""), INVALID),
    "noise": (bytes(np.random.default_rng(1).integers(0, 256, 1_000, np.uint8)), INVALID),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", INVALID),
    "JSON": (b'{"generation_id": "x"}', INVALID),
}


@pytest.mark.parametrize("name", SHAPES)
def test_messages_of_any_shape_are_answered(target: Target, name: str) -> None:
    data, status = SHAPES[name]
    assert target.call("Attribute", data)[0] == status


UNIT = np.full(64, 0.125, np.float32)


def with_one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    changed = UNIT.copy()
    changed[7] = value
    return changed


VECTORS: dict[str, Any] = {
    "empty": [], "a number": 1.0, "63 long": UNIT[:63], "65 long": np.append(UNIT, 0), "two rows": np.stack([UNIT, UNIT]),
    "one row": UNIT[None], "zeros": np.zeros(64), "halved": UNIT / 2, "doubled": UNIT * 2, "one per mille short": UNIT * 0.998,
    **{f"with {value}": with_one(value) for value in (np.nan, np.inf, -np.inf, 3e38, 1e30, 2.0)},
    "all NaN": np.full(64, np.nan), "all inf": np.full(64, np.inf), "all the largest": np.full(64, 3.4e38),
    "all the smallest": np.full(64, 1e-45), "of double range": np.full(64, 1e300), "half NaN": np.where(UNIT > 1, UNIT, np.nan),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_that_would_spoil_the_index_are_refused_at_its_border(name: str) -> None:
    with pytest.raises(InvalidVector, match="the query"):
        checked_vector(VECTORS[name], 64, "the query")


EVIL_NAMES = {
    "empty": "", "traversal": "../../etc/passwd", "Windows traversal": "..\\..\\x", "absolute": "/etc/passwd", "NUL": "a\0b",
    "leading NUL": "\0", "newline": "a\nb", "carriage return": "a\r\nx: y", "tab": "a\tb", "space": "a b", "only a space": " ",
    "right to left": "\u202eabc", "isolate": "a\u2067b", "zero width": "a\u200bb", "BOM": "\ufeffa", "combining": "e\u0301" * 50,
    "markup": "<script>alert(1)</script>", "quotes": "'; DROP TABLE postings; --", "template": "{{7*7}}", "format": "%s%n%x",
    "shell": "$(reboot)", "10 KB": "x" * 10_000, "1 MB": "x" * 1_000_000, "201 long": "x" * 201, "emoji": "\U0001f600",
    "full width": "\uff21\uff22", "Cyrillic": "\u0430bc", "escape": "\x1b[31mred", "delete": "a\x7f", "dash first": "-rf",
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_evil_generation_ids_are_refused(target: Target, name: str) -> None:
    assert target.call("Attribute", good_request(generation_id=EVIL_NAMES[name]))[0] == INVALID
    assert target.call("GetAttribution", v1.GetAttributionRequest(generation_id=EVIL_NAMES[name]))[0] == INVALID


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_evil_generators_and_policies_are_refused_or_unknown(target: Target, name: str) -> None:
    text = EVIL_NAMES[name]
    assert target.call("Attribute", good_request(model_version=text))[0] in (INVALID, "FAILED_PRECONDITION")
    preview = v1.PreviewRequest(model_version=MODEL_VERSION, image=GOOD, policy=text or "@")
    assert target.call("Preview", preview)[0] == INVALID


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_evil_disputes_and_pages_are_refused_or_find_nothing(target: Target, name: str) -> None:
    text = EVIL_NAMES[name]
    dispute = royalty_pb2.OpenDisputeRequest(dispute_id=text, generation_id=text, training_image_id=text, reason=text)
    assert target.call("OpenDispute", dispute, "Royalty")[0] in (INVALID, "NOT_FOUND")
    page = royalty_pb2.GetRoyaltiesRequest(page_token=text)
    assert target.call("GetRoyalties", page, "Royalty")[0] in (INVALID, OK)


@pytest.fixture(scope="module")
def canary() -> Iterator[tuple[int, list[bytes]]]:
    """A port of ours, and what connected to it."""
    visits: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                visits.append(b"visit")
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield listening.getsockname()[1], visits
        stop.set()
        thread.join()


SCHEMES = [
    "http",
    "https",
    "ftp",
    "ws",
    "gopher",
    "s3",
    "gs",
    "tcp",
    "ldap",
    "smb",
    "file",
    "data",
    "jar",
    "dict",
    "git",
]
CARRIERS = ["bytes", "SVG", "generation id", "model version", "comment"]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_fetched(target: Target, canary: tuple[int, list[bytes]], scheme: str, carrier: str) -> None:
    uri = f"{scheme}://127.0.0.1:{canary[0]}/x.png"
    requests = {
        "bytes": good_request(image=uri.encode()),
        "SVG": good_request(image=f'<svg><image href="{uri}"/></svg>'.encode()),
        "generation id": good_request(generation_id=uri),
        "model version": good_request(model_version=uri),
        "comment": commented(uri),
    }
    status = target.call("Attribute", requests[carrier])[0]
    # As an id it is a text like any other, and within a good image nobody reads it.
    assert status == {"bytes": INVALID, "SVG": INVALID, "model version": "FAILED_PRECONDITION"}.get(carrier, OK)
    assert canary[1] == []


def commented(uri: str) -> bytes:
    return good_request(image=encoded(Image.new("RGB", (8, 8)), "JPEG", comment=uri.encode()))


OTHER_IMAGES = {
    **{f"another colour {number}": encoded(Image.new("RGB", (8, 8), (number, 9, 9))) for number in range(8)},
    "the same pixels as JPEG": encoded(Image.new("RGB", (8, 8)), "JPEG"),
    "the same pixels as WebP": encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True),
    "the same pixels, packed otherwise": encoded(Image.new("RGB", (8, 8)), compress_level=0),
    "the same pixels with alpha": encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 255))),
    **{f"{count} bytes more": encoded(Image.new("RGB", (8, 8))) + bytes(count) for count in (1, 2, 100, 100_000)},
    "one byte less": encoded(Image.new("RGB", (8, 8)))[:-1],
    "cut in half": encoded(Image.new("RGB", (8, 8)))[:30],
    "no image at all": b"hello",
    "turned": encoded(Image.new("RGB", (8, 9))),
}


@pytest.mark.parametrize("name", OTHER_IMAGES)
def test_a_used_id_is_no_other_images(target: Target, name: str) -> None:
    generation, first = f"t:{uuid.uuid4()}", encoded(Image.new("RGB", (8, 8)))
    assert target.attribute(first, generation) == OK
    assert target.attribute(OTHER_IMAGES[name], generation) == "ALREADY_EXISTS"
    assert target.attribute(first, generation, "other") == "ALREADY_EXISTS"
    assert target.attribute(first, generation) == OK


@pytest.mark.parametrize("method", ["Attribute", "AttributeStream", "GetAttribution", "Preview"])
def test_bytes_that_are_no_message_are_refused_by_every_method(target: Target, method: str) -> None:
    assert target.call(method, b"\x07")[0] == INVALID
