"""Decoding: what is accepted, what is refused, and that refusing is cheap."""

import pytest
from PIL import Image, PngImagePlugin

from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.images import MAX_IMAGE_BYTES, check_image, decode_image, thumbnail
from tests.support.image_files import encoded, png


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_still_images_become_rgb(file_format: str) -> None:
    image = decode_image(encoded(Image.new("RGB", (40, 30), (200, 10, 10)), file_format))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_transparency_is_white() -> None:
    assert decode_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((1, 1)) == (255, 255, 255)


def test_palette_transparency_is_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert decode_image(encoded(image, transparency=0)).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    red, green, blue = decode_image(encoded(Image.new("I;16", (4, 4), 128 * 257))).getpixel((1, 1))  # type: ignore[misc]
    assert abs(red - 128) <= 1
    assert red == green == blue


@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    file_format = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(Image.new(mode, (4, 4)), file_format)).mode == "RGB"


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(Image.new("RGB", (40, 30)), "JPEG", exif=exif)).size == (30, 40)


@pytest.mark.parametrize("data", [b"", b"\0", b"not an image", b"GIF89a" + b"\0" * 100, b"<svg/>", b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode_image(data)


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageTooLarge, match="25,000,000"):
        decode_image(png(13_000, 13_000, bytes(100)))


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode_image(b"\0" * (MAX_IMAGE_BYTES + 1))


def test_animations_are_refused() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    with pytest.raises(InvalidImage, match="2 frames"):
        decode_image(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))


def test_huge_text_chunks_are_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2_000_000, zip=True)
    with pytest.raises(InvalidImage):
        decode_image(encoded(Image.new("RGB", (8, 8)), pnginfo=info))


def test_more_text_than_is_ever_accepted_is_refused_by_the_header_and_what_follows_the_image_is_not_text() -> None:
    def with_texts(count: int) -> bytes:
        info = PngImagePlugin.PngInfo()
        for number in range(count):
            info.add_text(f"comment {number}", "x" * 1_000_000)
        return encoded(Image.new("RGB", (8, 8)), pnginfo=info)

    assert decode_image(with_texts(4)).size == (8, 8)
    with pytest.raises(InvalidImage, match="of text"):
        check_image(with_texts(5))
    behind = with_texts(0) + with_texts(5)[len(b"\x89PNG....") :]
    assert decode_image(behind).size == (8, 8)


def test_ribbons_are_refused() -> None:
    with pytest.raises(InvalidImage, match="factor"):
        decode_image(encoded(Image.new("RGB", (2_000, 2))))


@pytest.mark.parametrize("size", [(20_000, 100), (100, 20_000), (3_100, 17)])
def test_thumbnail_of_a_narrow_image_can_be_read(size: tuple[int, int]) -> None:
    width, height = decode_image(thumbnail(Image.new("RGB", size))).size
    assert max(width, height) == 256


def test_thumbnails_keep_the_aspect() -> None:
    assert decode_image(thumbnail(Image.new("RGB", (1_000, 500)))).size == (256, 128)
