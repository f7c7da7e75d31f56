"""Upright RGB on white: orientation whatever the other tags are like, and transparency that is no alpha channel."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmvaluator.image_pixels import upright_rgb, upright_size
from gmvaluator.images import decode_image
from tests.support.image_files import PNG, chunk, encoded

WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Entry = tuple[int, int, int, bytes]
"""Tag, type, count and value of an EXIF entry."""

SIDEWAYS: Entry = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
ODD_TAGS: dict[str, tuple[Entry, ...]] = {
    "a signed number": ((0x011A, 9, 1, struct.pack("<i", -5)),),
    "a value behind the file": ((0x010F, 2, 99, struct.pack("<I", 60_000)),),
    "a type that does not exist": ((0x0131, 99, 1, bytes(4)),),
    "a fraction over zero": ((0x011B, 5, 1, struct.pack("<I", 8)),),
    "text that is no text": ((0x010E, 2, 4, b"\xff\xfe\xfd\xfc"),),
    "nothing": ((0x0213, 3, 0, bytes(4)),),
    "a pointer to itself": ((0x8769, 4, 1, struct.pack("<I", 8)),),
    "a pointer to nowhere": ((0x8825, 4, 1, struct.pack("<I", 1 << 30)),),
    "a million values": ((0x9286, 7, 1 << 20, struct.pack("<I", 8)),),
    "many of them": ((0x011A, 9, 1, struct.pack("<i", -5)), (0x0131, 99, 1, bytes(4)), (0x9999, 12, 1, bytes(4))),
}


def exif(*entries: Entry) -> bytes:
    directory = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("tags", ODD_TAGS)
def test_an_orientation_that_can_be_read_is_applied(tags: str, first: bool, file_format: str) -> None:
    entries = (SIDEWAYS, *ODD_TAGS[tags]) if first else (*ODD_TAGS[tags], SIDEWAYS)
    data = encoded(Image.new("RGB", (40, 30)), file_format, exif=exif(*entries))
    assert decode_image(data).size == (30, 40)
    with Image.open(io.BytesIO(data)) as image:
        assert upright_size(image) == (30, 40)


@pytest.mark.parametrize(
    ("kind", "value"), [(3, struct.pack("<HH", 6, 0)), (4, struct.pack("<I", 6)), (1, b"\6\0\0\0"), (9, b"\6\0\0\0")]
)
def test_an_orientation_of_another_type_of_number_is_applied(kind: int, value: bytes) -> None:
    assert decode_image(encoded(Image.new("RGB", (40, 30)), "JPEG", exif=exif((0x0112, kind, 1, value)))).size == (
        30,
        40,
    )


@pytest.mark.parametrize("value", [struct.pack("<HH", number, 0) for number in (0, 1, 9, 65_535)])
def test_an_orientation_that_does_not_exist_changes_nothing(value: bytes) -> None:
    assert decode_image(encoded(Image.new("RGB", (40, 30)), "JPEG", exif=exif((0x0112, 3, 1, value)))).size == (40, 30)


def raw_png(depth: int, colour: int, rows: list[bytes], transparent: bytes, *extra: bytes) -> bytes:
    """A PNG of 8 x 8 pixels, given as they are stored."""
    header = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = (*extra, chunk(b"tRNS", transparent), chunk(b"IDAT", pixels), chunk(b"IEND"))
    return PNG + chunk(b"IHDR", header) + b"".join(chunks)


HALF = struct.pack(">4H", *[0x8000] * 4)
TRANSPARENT: dict[str, tuple[bytes, tuple[int, ...], tuple[int, ...]]] = {
    "RGB": (raw_png(8, 2, [b"\xff\0\xff" * 4 + b"\xff\0\xfe" * 4] * 8, struct.pack(">3H", 255, 0, 255)),
            WHITE, (255, 0, 254)),
    "RGB, 16 bits": (
        raw_png(16, 2, [struct.pack(">3H", 65_535, 0, 65_535) * 4 + struct.pack(">3H", 65_534, 0, 65_535) * 4] * 8,
                struct.pack(">3H", 65_535, 0, 65_535)), WHITE, (255, 0, 255)),
    "grey": (raw_png(8, 0, [b"\7" * 4 + b"\6" * 4] * 8, b"\0\7"), WHITE, (6, 6, 6)),
    "grey, more bits than it has": (raw_png(8, 0, [b"\7" * 4 + b"\6" * 4] * 8, b"\1\7"), WHITE, (6, 6, 6)),
    "grey, 16 bits": (raw_png(16, 0, [HALF + bytes(8)] * 8, b"\x80\0"), WHITE, BLACK),
    "grey, 16 bits, one level apart": (
        raw_png(16, 0, [HALF + struct.pack(">4H", *[0x8001] * 4)] * 8, b"\x80\0"), WHITE, (127, 127, 127)),
    "grey, 4 bits": (raw_png(4, 0, [b"\x33\x33\x77\x77"] * 8, b"\0\3"), WHITE, (119, 119, 119)),
    "grey, 2 bits": (raw_png(2, 0, [b"\x55\xaa"] * 8, b"\0\1"), WHITE, (170, 170, 170)),
    "black of 1 bit": (raw_png(1, 0, [b"\x0f"] * 8, b"\0\0"), WHITE, WHITE),
    "palette of one": (raw_png(8, 3, [bytes(4) + b"\1" * 4] * 8, b"\0", chunk(b"PLTE", b"\1\2\3\4\5\6")),
                       WHITE, (4, 5, 6)),
    "palette of 1 bit": (raw_png(1, 3, [b"\x0f"] * 8, b"\0", chunk(b"PLTE", b"\1\2\3\4\5\6")), WHITE, (4, 5, 6)),
}  # fmt: skip


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_the_transparent_value_is_white_and_no_other_is(name: str, factor: int) -> None:
    data, left, right = TRANSPARENT[name]
    with Image.open(io.BytesIO(data)) as image:
        pixels = upright_rgb(image, data, factor)
    assert pixels.size == (8 // factor, 8 // factor)
    assert (pixels.getpixel((0, 1)), pixels.getpixel((pixels.width - 1, 1))) == (left, right)


ALPHA: dict[str, Callable[[], tuple[Image.Image, str, dict[str, Any]]]] = {
    "grey and alpha": lambda: (Image.new("LA", (8, 8), (0, 0)), "PNG", {}),
    "colours and alpha": lambda: (Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "WEBP", {"lossless": True, "exact": True}),
    "a palette's colour": lambda: (Image.new("P", (8, 8), 0), "PNG", {"transparency": 0}),
    "a palette's alphas": lambda: (Image.new("P", (8, 8), 1), "PNG", {"transparency": b"\x80\0"}),
}


@pytest.mark.parametrize("name", ALPHA)
def test_transparency_of_any_kind_is_white(name: str) -> None:
    image, file_format, options = ALPHA[name]()
    if image.mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    assert decode_image(encoded(image, file_format, **options)).getpixel((3, 3)) == WHITE


def test_an_image_reduced_in_bands_is_the_reduced_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmvaluator.image_pixels._BAND_PIXELS", 300)
    noise = Image.effect_noise((101, 67), 60).convert("RGB")
    with Image.open(io.BytesIO(encoded(noise))) as image:
        reduced = upright_rgb(image, encoded(noise), 3)
    assert np.array_equal(np.asarray(reduced), np.asarray(noise.reduce(3)))
