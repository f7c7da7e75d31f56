"""Encoded images: the header is parsed once, and what it refuses reaches no decoder process."""

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from attributor.workers import decoder_pool
from attributor.workers.decoder_pool import DecoderPool, EncodedImage
from gmvaluator.errors import ImageTooLarge, InvalidImage
from gmvaluator.ports import Prepared


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    """A pool without processes: it blocks on an image that needs one."""
    pool = DecoderPool(lambda _, parts: Prepared.shared(None), 1)  # type: ignore[arg-type]
    yield pool
    pool.close()


def test_the_header_gives_the_pixels() -> None:
    assert EncodedImage.parse(png(30, 20)).pixels == 600


@pytest.mark.parametrize(
    ("data", "error"), [(b"no image", InvalidImage), (b"", InvalidImage), (png(5_001, 5_000), ImageTooLarge)]
)
async def test_a_refused_header_reaches_no_process(
    pool: DecoderPool, data: bytes, error: type[InvalidImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = EncodedImage.parse(data)
    monkeypatch.delattr(decoder_pool, "check_image")  # it is not parsed again
    assert image.pixels == 0
    for _ in range(2):
        with pytest.raises(error):
            await pool.decode(image)
    assert pool.counts.refused == 2


def test_a_refusal_refers_to_no_frame_that_holds_the_file() -> None:
    image = EncodedImage.parse(b"no image")
    with pytest.raises(InvalidImage):
        image.check()
    assert image.refusal is not None
    assert image.refusal.__traceback__ is None
    assert image.refusal.__context__ is None
