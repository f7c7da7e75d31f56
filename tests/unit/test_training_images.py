"""Training images: formats, the first of several frames, and images larger than a generated one may be."""

import io
import struct
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.images import MAX_IMAGE_PIXELS
from gmvaluator.training_images import TrainingLimits, decode_training_image, training_image_size
from tests.support.image_files import encoded, png

NOISE = Image.effect_noise((40, 30), 60).convert("RGB")
PAGES = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_format_is_read_as_pillow_reads_it(file_format: str) -> None:
    data = encoded(NOISE, file_format)
    image = decode_training_image(data)
    with Image.open(io.BytesIO(data)) as opened:
        assert image.pixels.tobytes() == opened.convert("RGB").tobytes()
    assert (image.width, image.height, image.first_of_several) == (40, 30, False)
    assert training_image_size(data) == (40, 30)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_is_cut_short_is_refused_and_what_follows_one_is_ignored(file_format: str) -> None:
    data = encoded(NOISE, file_format)
    assert decode_training_image(data + bytes(300 * 1024)).pixels == decode_training_image(data).pixels
    for length in range(1, len(data) * 9 // 10, len(data) // 19):
        with pytest.raises(InvalidImage):
            decode_training_image(data[:length])


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_the_first_of_several_frames_is_taken_and_said(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = decode_training_image(encoded(PAGES[0], file_format, save_all=True, append_images=PAGES[1:], **options))
    assert image.first_of_several
    red, green, blue = np.asarray(image.pixels)[5, 5].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_a_phone_s_second_picture_is_no_further_frame() -> None:
    image = decode_training_image(encoded(NOISE, "MPO", save_all=True, append_images=[NOISE]))
    assert (image.width, image.first_of_several) == (40, False)


def tiff(mode: str, value: object, **options: object) -> bytes:
    return encoded(Image.new(mode, (9, 7), value), "TIFF", **options)  # type: ignore[arg-type]


def sixteen_bit_colours(samples: np.ndarray[Any, np.dtype[np.uint16]], white_is_zero: bool = False) -> bytes:
    """An uncompressed TIFF of 16 bits a sample, which Pillow itself cannot write."""
    height, width, bands = samples.shape
    pixels = samples.astype("<u2").tobytes()
    photometric = 2 if bands == 3 else 0 if white_is_zero else 1
    bits_at = 8 + 2 + 9 * 12 + 4
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, bits_at if bands == 3 else 16), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, bits_at + 6), (277, 3, 1, bands), (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + struct.pack("<3H", 16, 16, 16) + pixels
    )


UNDERSTOOD: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "16 bit grey": (lambda: tiff("I;16", 128 * 257), (128, 128, 128)),
    "16 bit grey, white is zero": (
        lambda: sixteen_bit_colours(np.full((7, 9, 1), 255 * 257, np.uint16), True), (0, 0, 0)
    ),
    "16 bit colours": (
        lambda: sixteen_bit_colours(np.full((7, 9, 3), (257, 2 * 257, 3 * 257), np.uint16)), (1, 2, 3)
    ),
    "transparent": (lambda: tiff("RGBA", (1, 2, 3, 0)), (255, 255, 255)),
    "transparent grey": (lambda: tiff("LA", (1, 0)), (255, 255, 255)),
    "1 bit, fax": (lambda: tiff("1", 0, compression="group4"), (0, 0, 0)),
    "palette": (lambda: encoded(Image.new("RGB", (9, 7), (8, 9, 10)).quantize(2), "TIFF"), (8, 9, 10)),
    "inks": (lambda: tiff("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
    "compressed": (lambda: tiff("RGB", (1, 2, 3), compression="tiff_lzw"), (1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_tiff_of_any_usual_kind_is_understood(name: str) -> None:
    data, colour = UNDERSTOOD[name]
    assert decode_training_image(data()).pixels.getpixel((3, 3)) == colour


@pytest.mark.parametrize(("mode", "reason"), [("F", "floating point numbers"), ("I", "signed or 32-bit integers")])
def test_pixels_that_define_no_white_are_refused(mode: str, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        decode_training_image(tiff(mode, 1))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "PNG", "WEBP", "AVIF"])
def test_orientation_is_applied_to_pixels_and_size(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(NOISE, file_format, exif=exif)
    image = decode_training_image(data)
    assert image.pixels.size == (image.width, image.height) == training_image_size(data) == (30, 40)


def previewed() -> bytes:
    """A TIFF whose first page is a preview, as most cameras' raw files are."""
    return encoded(NOISE, "TIFF", tiffinfo={254: 1})


REFUSED = {
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(64), "the file is HEIC"),
    "a preview first": (previewed(), "raw file"),
    "Canon's raw file": (b"II*\0\x10\0\0\0CR\2\0" + bytes(64), "raw file"),
    "JPEG XL": (b"\xff\x0a" + bytes(64), "no image of a format that is read"),
    "text": (b"not an image", "no image of a format that is read"),
    "nothing": (b"", "empty"),
    "an icon": (encoded(NOISE, "ICO"), "no image of a format that is read"),
    "a JPEG 2000 of 9,000 components": (
        b"\xff\x4f\xff\x51" + bytes(36) + struct.pack(">H", 9_000) + bytes(90) + b"\xff\xd9", "9000 components"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_another_file_is_refused_and_its_kind_is_named(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(InvalidImage, match=reason):
        decode_training_image(data)


def test_limits_are_those_of_the_run() -> None:
    limits = TrainingLimits(pixels=1_000, size_bytes=5_000)
    with pytest.raises(ImageTooLarge, match="1,000"):
        decode_training_image(png(40, 30), limits)
    with pytest.raises(ImageTooLarge, match="5,000"):
        decode_training_image(png(4, 4) + bytes(5_000), limits)
    assert decode_training_image(png(30, 30), limits).width == 30
    with pytest.raises(ImageTooLarge, match="the limit is 250"):
        decode_training_image(encoded(Image.new("RGB", (30, 30)), "WEBP"), limits)


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "PNG", "GIF"])
def test_an_image_over_the_model_s_need_is_reduced(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmvaluator.training_images.MAX_IMAGE_PIXELS", 300)
    monkeypatch.setattr("gmvaluator.image_pixels._BAND_PIXELS", 100)
    image = decode_training_image(encoded(Image.new("RGB", (63, 40), (200, 10, 10)), file_format))
    assert (image.width, image.height) == (63, 40)
    assert 100 <= image.pixels.width * image.pixels.height <= 300
    assert np.abs(np.asarray(image.pixels).astype(int) - (200, 10, 10)).max() <= 3


def test_a_photograph_over_25_megapixels_is_read() -> None:
    image = decode_training_image(encoded(Image.new("L", (8_000, 4_000), 99), "JPEG"))
    assert (image.width, image.height) == (8_000, 4_000)
    assert image.pixels.width * image.pixels.height <= MAX_IMAGE_PIXELS
    assert image.pixels.getpixel((0, 0)) == (99, 99, 99)


def public_files() -> list[Path]:
    """Pictures that come with installed packages."""
    folders = [Path(spec.origin).parent for name in ("skimage", "matplotlib", "sklearn", "scipy")
               if (spec := find_spec(name)) is not None and spec.origin is not None]  # fmt: skip
    endings = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".svg", ".ppm", ".npy", ".pdf"}
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in endings)


def as_pillow_reads_it(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def test_each_file_of_a_public_suite_decodes_as_pillow_does_or_is_refused_with_a_reason() -> None:
    decoded = 0
    for path in public_files():
        data = path.read_bytes()
        try:
            image = decode_training_image(data)
        except InvalidImage:
            continue
        decoded += 1
        with warnings.catch_warnings(action="ignore"):
            expected = as_pillow_reads_it(data)
        assert image.pixels.size == expected.size == (image.width, image.height), path
        difference = np.abs(np.asarray(image.pixels).astype(int) - np.asarray(expected).astype(int))
        assert difference.max() <= 1, path
    assert decoded >= 40
