"""Files that are no image, an oversized one, or an unusual one."""

import base64
import gzip
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from gmvaluator.images import decode_image
from tests.integration.hostile.conftest import GOOD, Target, encoded
from tests.support.image_files import PNG, chunk, jpeg_of_size, jpeg_with, png, riff, segment, vp8l, vp8x

INVALID, OK = "INVALID_ARGUMENT", "OK"
NOISE = Image.effect_noise((24, 20), 60).convert("RGB")
JPEG, WEBP = encoded(NOISE, "JPEG"), encoded(NOISE, "WEBP")
MIB = 1024 * 1024

EMPTY_AND_TINY = {
    **{f"{count} zero bytes": bytes(count) for count in (0, 1, 2, 3, 7, 8, 11, 12, 16, 33, 64)},
    **{f"PNG cut at {count}": PNG[:count] for count in range(1, 9)},
    "JPEG marker": b"\xff\xd8",
    "JPEG marker and more": b"\xff\xd8\xff",
    "JPEG begin and end": b"\xff\xd8\xff\xd9",
    "RIFF": b"RIFF",
    "RIFF WEBP": b"RIFF\x04\0\0\0WEBP",
    "one space": b" ",
    "one letter": b"x",
    "PNG without chunks": PNG + chunk(b"IEND"),
    "PNG of nothing": png(0, 0, b""),
    "PNG without width": png(0, 1, b"\0"),
    "PNG without height": png(1, 0, b""),
    "JPEG without size": jpeg_of_size(JPEG, 0, 0),
}

PIXEL_BOMBS = {
    **{
        f"PNG {width} x {height}": png(width, height, b"\0" * 100)
        for width, height in ((5_001, 5_000), (13_000, 13_000), (65_535, 65_535), (2**31 - 1, 1), (1, 2**31 - 1),
                              (2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1), (100_000, 251))
    },
    **{
        f"JPEG {width} x {height}": jpeg_of_size(JPEG, width, height)
        for width, height in ((5_001, 5_000), (65_500, 65_500), (65_535, 65_535), (65_535, 400))
    },
    **{
        f"WebP {width} x {height}": riff([(b"VP8X", vp8x(width, height)), (b"VP8L", vp8l(16, 16))])
        for width, height in ((5_001, 5_000), (16_384, 16_384), (2**24, 2**24), (2**24, 255))
    },
    **{f"lossless WebP {side}": riff([(b"VP8L", vp8l(side, side))]) for side in (5_001, 16_383)},
    "zlib bomb behind a small header": png(10, 10, bytes(64 * MIB)),
    "zlib bomb behind a large header": png(13_000, 13_000, bytes(64 * MIB)),
    "16 bit": png(5_001, 5_000, b"\0", depth=16),
    "RGBA": png(6_000, 6_000, b"\0", colour=6),
}  # fmt: skip


def text_chunk(size: int) -> bytes:
    return chunk(b"tEXt", b"k\0" + b"x" * size)


def zipped_text(size: int) -> bytes:
    return chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * size, 1))


def international_text(size: int) -> bytes:
    return chunk(b"iTXt", b"k\0\x01\0\0\0" + zlib.compress(b"x" * size, 1))


def profile_chunk(size: int) -> bytes:
    return chunk(b"iCCP", b"k\0\0" + zlib.compress(b"x" * size, 1))


def small(extra: bytes) -> bytes:
    return png(8, 8, extra=extra)


HUGE_METADATA: dict[str, tuple[bytes, str]] = {
    "text, 1 KiB": (small(text_chunk(1024)), OK),
    "text, 6 MiB": (small(text_chunk(6 * MIB)), INVALID),
    "text, 19 MiB": (small(text_chunk(19 * MIB)), INVALID),
    "zipped text, 1 KiB": (small(zipped_text(1024)), OK),
    "zipped text, 2 MiB": (small(zipped_text(2 * MIB)), INVALID),
    "zipped text, 64 MiB": (small(zipped_text(64 * MIB)), INVALID),
    "international text, 2 MiB": (small(international_text(2 * MIB)), INVALID),
    "international text, 64 MiB": (small(international_text(64 * MIB)), INVALID),
    "ten zipped texts of 1 MiB": (small(zipped_text(MIB - 10) * 10), INVALID),
    "zipped profile, 2 MiB": (small(profile_chunk(2 * MIB)), INVALID),
    "zipped profile, 64 MiB": (small(profile_chunk(64 * MIB)), INVALID),
    "no profile at all": (small(chunk(b"iCCP", b"k\0\0junk")), OK),
    "EXIF that is noise": (small(chunk(b"eXIf", bytes(range(256)) * 64)), OK),
    "EXIF, 10 MiB": (small(chunk(b"eXIf", b"II*\0\x08\0\0\0" + b"\xff" * 10 * MIB)), OK),
    "EXIF that points at itself": (
        small(chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0")),
        OK,
    ),
    "a private chunk of 15 MiB": (small(chunk(b"prVt", bytes(15 * MIB))), OK),
    "ten thousand empty chunks": (small(chunk(b"prVt") * 10_000), OK),
    "a million empty chunks": (small(chunk(b"prVt") * 1_000_000), INVALID),
    "JPEG with 200 comments": (jpeg_with(JPEG, segment(0xFE, b"x" * 60_000) * 200), OK),
    "JPEG with 100,000 comments": (jpeg_with(JPEG, segment(0xFE) * 100_000), INVALID),
    "JPEG with noise for EXIF": (jpeg_with(JPEG, segment(0xE1, b"Exif\0\0" + b"\xff" * 60_000)), OK),
    "JPEG with a profile in 255 parts": (
        jpeg_with(
            JPEG, b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(60_000)) for n in range(1, 256))
        ),
        OK,
    ),
    "WebP with EXIF of 15 MiB": (encoded(NOISE, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(15 * MIB)), OK),
    "WebP with XMP of 15 MiB": (encoded(NOISE, "WEBP", xmp=b"<x>" + b" " * 15 * MIB), OK),
    "WebP with 100,000 chunks": (riff([(b"VP8X", vp8x(16, 16)), *[(b"junk", b"")] * 100_000]), INVALID),
}


def animated(file_format: str, count: int) -> bytes:
    frames = [Image.new("RGB", (8, 8), (number * 97 % 256, number * 31 % 256, 1)) for number in range(count)]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:])


def control(frames: int) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


def animation_header(frames: int) -> bytes:
    frame = bytes(16) + b"VP8L" + struct.pack("<I", 32) + vp8l(8, 8)[:32]
    return riff([(b"VP8X", vp8x(8, 8, 2)), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * frames])


MANY_FRAMES = {
    **{f"WebP of {count}": animated("WEBP", count) for count in (2, 3, 5, 50, 500)},
    **{f"APNG of {count}": animated("PNG", count) for count in (2, 3, 5, 50, 500)},
    **{f"PNG that promises {count}": png(8, 8, extra=control(count)) for count in (2, 3, 1_000, 100_000, 2**31 - 1)},
    **{f"WebP of {count} broken ones": animation_header(count) for count in (0, 1, 2, 1_000)},
    "JPEG of 1,000 scans": JPEG[:-2] + segment(0xDA, bytes(8)) * 1_000 + b"\xff\xd9",
    "WebP of 20,001": animation_header(20_001),
}

PICTURE = encoded(NOISE, "GIF")
DISGUISED = {
    "GIF": PICTURE,
    "GIF of two": animated("GIF", 2),
    **{name: encoded(NOISE, name) for name in ("BMP", "TIFF", "PPM", "TGA", "PCX", "ICO", "SGI", "PDF", "EPS", "DDS")},
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
    "AVIF": b"\0\0\0\x20ftypavif" + bytes(64),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(64),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "HTML": b"<!doctype html><img src=x onerror=alert(1)>",
    "JSON": b'{"image": "x"}',
    "shell script": b"#!/bin/sh\nexit\n",
    "ELF": b"\x7fELF" + bytes(200),
    "ZIP": b"PK\x03\x04" + bytes(200),
    "pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x05posix\x94.",
    "numpy": b"\x93NUMPY\x01\0v\0" + bytes(200),
    "gzipped PNG": gzip.compress(GOOD),
    "base64 of a PNG": base64.b64encode(GOOD),
    "data URI": b"data:image/png;base64," + base64.b64encode(GOOD),
    "PNG behind a byte": b"\0" + GOOD,
    "PNG spoilt by text mode": GOOD.replace(b"\r\n", b"\n"),
    "JPEG behind a line": b"\n" + JPEG,
    "WAV": riff([(b"fmt ", bytes(16)), (b"data", bytes(64))], b"WAVE"),
    "AVI": riff([(b"LIST", bytes(64))], b"AVI "),
    "PNG signature over a JPEG": PNG + JPEG[8:],
    "WebP signature over a PNG": riff([(b"VP8 ", GOOD)]),
    "JPEG signature over text": b"\xff\xd8\xff" + b"hello " * 50,
    "HTML with a JPEG signature": b"\xff\xd8\xff<html><script>alert(1)</script>",
}


@pytest.mark.parametrize("name", EMPTY_AND_TINY)
def test_empty_and_tiny_files_are_refused(target: Target, name: str) -> None:
    assert target.attribute(EMPTY_AND_TINY[name]) == INVALID


@pytest.mark.parametrize("name", PIXEL_BOMBS)
def test_pixel_bombs_are_refused_or_harmless(target: Target, name: str) -> None:
    # A PNG with more pixels than its header says is read as far as the header says, as every reader does.
    assert target.attribute(PIXEL_BOMBS[name]) == (OK if "small header" in name else INVALID)


@pytest.mark.parametrize("name", HUGE_METADATA)
def test_metadata_is_bounded_and_never_read_for_long(target: Target, name: str) -> None:
    image, status = HUGE_METADATA[name]
    assert target.attribute(image) == status


@pytest.mark.parametrize("name", MANY_FRAMES)
def test_more_than_one_frame_is_refused(target: Target, name: str) -> None:
    assert target.attribute(MANY_FRAMES[name]) == INVALID


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_truncation_at_every_byte_is_refused_or_loses_no_pixel(target: Target, file_format: str, part: int) -> None:
    whole = encoded(Image.effect_noise((8, 8), 60).convert("RGB"), file_format)
    cut = [whole[:length] for length in range(part, len(whole), PARTS)]
    statuses = target.attribute_all(cut)
    assert set(statuses) <= {OK, INVALID}
    assert statuses.count(INVALID) >= len(cut) - 4
    for data, status in zip(cut, statuses, strict=True):
        if status == OK:
            assert target.final(data).contributors == target.final(whole).contributors


@pytest.mark.parametrize("name", DISGUISED)
def test_other_formats_are_refused_whatever_they_are_called(target: Target, name: str) -> None:
    assert target.attribute(DISGUISED[name]) == INVALID


Array = npt.NDArray[np.uint8]
COLOURS = np.random.default_rng(7).integers(0, 256, (12, 16, 3), np.uint8)
GREYS = COLOURS[..., 0]
ALPHA = COLOURS[..., 1]


def on_white(colours: Array, alpha: Array) -> Array:
    """colours over white by alpha, in real numbers."""
    part = alpha[..., None].astype(np.float64) / 255
    return np.asarray(np.rint(colours * part + 255 * (1 - part)), np.uint8)


def grey(values: Array) -> Array:
    return np.repeat(values[..., None], 3, axis=2)


def turned(orientation: int) -> tuple[bytes, Array]:
    """A file whose EXIF says how to turn it, and what it looks like upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2), 6: np.rot90(COLOURS, -1), 7: np.rot90(COLOURS, 2).transpose(1, 0, 2),
        8: np.rot90(COLOURS),
    }.get(orientation, COLOURS)  # fmt: skip
    return encoded(Image.fromarray(COLOURS), "PNG", exif=exif), upright


def palette(transparency: int | bytes | None) -> tuple[bytes, Array]:
    indices = (GREYS % 4).astype(np.uint8)
    colours = COLOURS[0, :4]
    image = Image.fromarray(indices).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colours.tobytes())
    data = encoded(image) if transparency is None else encoded(image, transparency=transparency)
    alphas = np.full(4, 255, np.uint8)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    elif transparency is not None:
        alphas[: len(transparency)] = list(transparency)
    return data, on_white(colours[indices], alphas[indices])


def cmyk() -> tuple[bytes, Array]:
    """Of one colour, which JPEG keeps; Pillow's and Adobe's CMYK is stored inverted."""
    data = encoded(Image.new("CMYK", (16, 12), (10, 200, 60, 40)), "JPEG", quality=100)
    cyan, magenta, yellow, black = 10, 200, 60, 40
    colour = [round((255 - ink) * (255 - black) / 255) for ink in (cyan, magenta, yellow)]
    return data, np.full((12, 16, 3), colour, np.uint8)


def sixteen_bit() -> tuple[bytes, Array]:
    wide = GREYS.astype(np.uint16) * 257
    return encoded(Image.fromarray(wide)), grey(GREYS)


def one_bit() -> tuple[bytes, Array]:
    bits = GREYS > 127
    return encoded(Image.fromarray(bits)), grey(np.where(bits, 255, 0).astype(np.uint8))


def with_alpha(file_format: str) -> tuple[bytes, Array]:
    image = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    return encoded(image, file_format, lossless=True, exact=True), on_white(COLOURS, ALPHA)


def profiled() -> tuple[bytes, Array]:
    """A colour profile changes nothing: pixels are taken as they are."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(Image.fromarray(COLOURS), icc_profile=profile), COLOURS


ODD_COLOURS = {
    **{f"EXIF orientation {number}": turned(number) for number in range(10)},
    "CMYK JPEG": cmyk(),
    "16 bit grey": sixteen_bit(),
    "1 bit": one_bit(),
    "grey": (encoded(Image.fromarray(GREYS)), grey(GREYS)),
    "grey with alpha": (
        encoded(Image.merge("LA", (Image.fromarray(GREYS), Image.fromarray(ALPHA)))), on_white(grey(GREYS), ALPHA)
    ),
    "grey with a transparent value": (
        encoded(Image.fromarray(GREYS), transparency=int(GREYS[0, 0])),
        on_white(grey(GREYS), np.where(GREYS[0, 0] == GREYS, 0, 255).astype(np.uint8)),
    ),
    "palette": palette(None),
    "palette with a transparent colour": palette(2),
    "palette with alphas": palette(bytes([0, 80, 160, 255])),
    "RGBA PNG": with_alpha("PNG"),
    "RGBA WebP": with_alpha("WEBP"),
    "lossless WebP": (encoded(Image.fromarray(COLOURS), "WEBP", lossless=True), COLOURS),
    "interlaced colours with a profile": profiled(),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_COLOURS)
def test_odd_colours_are_accepted_and_are_what_they_look_like(target: Target, name: str) -> None:
    data, upright = ODD_COLOURS[name]
    seen = np.asarray(decode_image(data)).astype(int)
    assert seen.shape == upright.shape
    assert np.abs(seen - upright).max() <= 2
    plain = encoded(Image.fromarray(np.asarray(decode_image(data))))
    assert target.final(data).contributors == target.final(plain).contributors


def progressive(quality: int) -> bytes:
    return encoded(NOISE, "JPEG", quality=quality, progressive=True)


def padded(size: int) -> bytes:
    """A PNG of exactly `size` bytes."""
    bare = png(8, 8)
    return png(8, 8, extra=chunk(b"prVt", bytes(size - len(bare) - 12)))


BOUNDARIES: dict[str, tuple[bytes, str]] = {
    "20 MiB": (padded(20 * MIB), OK),
    "20 MiB less one": (padded(20 * MIB - 1), OK),
    "20 MiB and one": (padded(20 * MIB + 1), INVALID),
    "21 MiB": (padded(21 * MIB), INVALID),
    "40 MiB": (padded(40 * MIB), INVALID),
    "25,000,000 pixels": (png(5_000, 5_000), OK),
    "25,000,001 pixels": (png(5_000_001, 5, b"\0"), INVALID),
    "25,005,000 pixels": (png(5_001, 5_000, b"\0"), INVALID),
    "one pixel": (png(1, 1), OK),
    "200 by 1": (png(200, 1), OK),
    "201 by 1": (png(201, 1), INVALID),
    "1 by 200": (png(1, 200), OK),
    "1 by 201": (png(1, 201), INVALID),
    "65,500 by 380": (png(65_500, 380), OK),
    "progressive": (progressive(80), OK),
    "JPEG of lowest quality": (encoded(NOISE, "JPEG", quality=1), OK),
    "bytes behind the end of a PNG": (GOOD + bytes(1000), OK),
    "bytes behind the end of a JPEG": (JPEG + bytes(1000), OK),
    "an image behind the end": (JPEG + GOOD, OK),
    "a phone's two pictures": (encoded(NOISE, "MPO", save_all=True, append_images=[NOISE]), OK),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_size_boundaries_are_where_they_are_said_to_be(target: Target, name: str) -> None:
    image, status = BOUNDARIES[name]
    assert target.attribute(image) == status


def test_the_families_are_large() -> None:
    for family in (EMPTY_AND_TINY, PIXEL_BOMBS, HUGE_METADATA, MANY_FRAMES, DISGUISED, ODD_COLOURS, BOUNDARIES):
        assert len(family) >= 20
