"""The end of an image file: what follows it is no part of the image, and a file that is cut short is no image."""

import random
import struct
import zlib

import pytest
from PIL import Image

from gmvaluator.errors import InvalidImage
from gmvaluator.image_headers import MAX_SCANS
from gmvaluator.images import check_image, decode_image
from gmvaluator.training_images import decode_training_image
from tests.support.image_files import PNG, chunk, encoded

NOISE = Image.effect_noise((48, 40), 60).convert("RGB")
FILES = {
    "JPEG": encoded(NOISE, "JPEG"),
    "progressive JPEG": encoded(NOISE, "JPEG", progressive=True),
    "JPEG with restarts": encoded(NOISE, "JPEG", restart_marker_blocks=2),
    "PNG": encoded(NOISE, "PNG"),
    "WebP": encoded(NOISE, "WEBP"),
    "lossless WebP": encoded(NOISE, "WEBP", lossless=True),
}
MIB = 1024 * 1024
RANDOM = random.Random(3)
VIDEO = b"MotionPhoto_Data\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + RANDOM.randbytes(8 * MIB)
BEHIND = {
    "a phone's video": VIDEO,
    "zeros": bytes(300 * 1024),
    "marker bytes": b"\xff\xda" * 1_000 + b"\xff\xd9",
    "another image": FILES["PNG"],
    "the same image": FILES["JPEG"],
    "a line": b"\r\n",
    "text": b"<html>" * 10_000,
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("name", FILES)
def test_whatever_follows_an_image_is_no_part_of_it(name: str, behind: str) -> None:
    assert decode_image(FILES[name] + BEHIND[behind]).tobytes() == decode_image(FILES[name]).tobytes()


@pytest.mark.parametrize("name", FILES)
def test_an_image_cut_at_any_byte_is_refused(name: str) -> None:
    for length in {*range(0, len(FILES[name]), 61), *range(len(FILES[name]) - 60, len(FILES[name]))}:
        with pytest.raises(InvalidImage):
            decode_image(FILES[name][:length])


@pytest.mark.parametrize("behind", ["zeros", "another image", "the same image", "a phone's video", "text"])
@pytest.mark.parametrize("name", ["JPEG", "progressive JPEG", "JPEG with restarts", "PNG"])
def test_an_image_that_is_cut_short_is_refused_although_something_follows_it(name: str, behind: str) -> None:
    whole = FILES[name]
    with pytest.raises(InvalidImage, match=r"cut short|truncated or damaged|segments"):
        decode_image(whole[: len(whole) // 2] + BEHIND[behind])


def test_the_header_check_alone_tells_that_a_png_is_cut_short() -> None:
    with pytest.raises(InvalidImage, match="PNG was cut short"):
        check_image(FILES["PNG"][:-1])


def test_segments_that_hold_marker_bytes_are_no_scans() -> None:
    depth_map = b"".join(b"\xff\xe2\xff\xff" + b"\xff\xda" * 32_766 + b"\0" for _ in range(3))
    jpeg = FILES["JPEG"]
    assert decode_image(jpeg[:2] + depth_map + jpeg[2:]).tobytes() == decode_image(jpeg).tobytes()


def test_more_scans_than_any_encoder_writes_are_refused() -> None:
    scan = b"\xff\xda\0\x0c" + bytes(10)
    with pytest.raises(InvalidImage, match=f"{MAX_SCANS} scans"):
        decode_image(FILES["JPEG"][:-2] + scan * MAX_SCANS + b"\xff\xd9")


def test_empty_segments_between_frame_and_scan_are_bounded() -> None:
    scan = FILES["JPEG"].index(b"\xff\xda")
    slow = FILES["JPEG"][:scan] + b"\xff\xfe\0\x02" * 30_000 + FILES["JPEG"][scan:]
    with pytest.raises(InvalidImage, match="segments"):
        decode_image(slow)


def test_chunks_are_counted_up_to_the_end_only() -> None:
    end = FILES["PNG"].index(b"IEND") - 4
    empty = chunk(b"prVt") * 30_000
    assert decode_image(FILES["PNG"] + empty).size == NOISE.size
    with pytest.raises(InvalidImage, match="chunks"):
        decode_image(FILES["PNG"][:end] + empty + FILES["PNG"][end:])


ROWS = {False: [9] * 9, True: [2, 2, 1, 1, 3, 2, 2, 2, 5, 5, 4, 4, 4, 4, 4, 9, 9, 9, 9]}
"""Pixels of each row of a PNG of 9 x 9 pixels, plain and interlaced."""


def black_png(missing_rows: int, interlaced: bool, behind: bytes = b"") -> bytes:
    """A black PNG whose pixels are compressed in two chunks, without the last rows."""
    header = struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, interlaced)
    rows = ROWS[interlaced][: len(ROWS[interlaced]) - missing_rows]
    pixels = zlib.compress(b"".join(bytes(1 + 3 * pixels) for pixels in rows) + behind)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", pixels[:5]) + chunk(b"IDAT", pixels[5:]) + chunk(b"IEND")


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_pixels_end_early_is_refused_and_a_black_one_is_not(interlaced: bool) -> None:
    assert decode_image(black_png(0, interlaced)).getpixel((8, 8)) == (0, 0, 0)
    assert decode_image(black_png(0, interlaced, b"more")).size == (9, 9)
    for missing in (1, 4, 8):
        with pytest.raises(InvalidImage, match="cut short"):
            decode_image(black_png(missing, interlaced))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (33, 17)])
def test_a_black_png_of_any_kind_is_whole(mode: str, size: tuple[int, int]) -> None:
    assert decode_image(encoded(Image.new(mode, size))).size == size


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 3}], ids=str)
def test_a_jpeg_that_is_cut_short_and_then_closed_is_refused(mode: str, options: dict[str, int]) -> None:
    whole = encoded(Image.effect_noise((200, 160), 60).convert(mode), "JPEG", **options)
    assert decode_image(whole).size == (200, 160)
    for part in (0.5, 0.9, 0.98):
        kept = whole[: int(len(whole) * part)].rstrip(b"\xff")
        for read in (decode_image, decode_training_image):
            with pytest.raises(InvalidImage, match="JPEG was cut short"):
                read(kept + b"\xff\xd9" + VIDEO[:100])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (6_000, 4_500)])
def test_a_grey_jpeg_is_whole(mode: str, size: tuple[int, int]) -> None:
    grey = Image.new(mode, size, (128,) * len(Image.new(mode, (1, 1)).getbands()) if mode != "L" else 128)
    assert decode_training_image(encoded(grey, "JPEG")).pixels.getpixel((0, 0)) is not None
