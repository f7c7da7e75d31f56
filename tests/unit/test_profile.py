"""The smallest image that a profile values."""

import pytest
from PIL import Image

from attributor.workers.decoder_pool import DecoderPool, EncodedImage
from gmvaluator.errors import InvalidImage
from gmvaluator.models.profiles import known_profiles, profile_identity
from gmvaluator.ports import Prepared
from gmvaluator.profile import SMALLEST_SIDE_PX
from tests.support.image_files import encoded

LITE = profile_identity("lite")
SMALLEST = LITE.smallest_side_px


def test_every_profile_has_a_smallest_side() -> None:
    assert SMALLEST_SIDE_PX.keys() == set(known_profiles())
    assert SMALLEST > 1


def test_it_is_the_shorter_side_that_counts() -> None:
    LITE.check_size(SMALLEST, SMALLEST)
    for width, height in ((SMALLEST - 1, 500), (500, SMALLEST - 1), (1, 1)):
        with pytest.raises(InvalidImage, match=f"{width} x {height} pixels, too small .* profile lite"):
            LITE.check_size(width, height)


def test_it_is_no_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = LITE.hash
    monkeypatch.setitem(SMALLEST_SIDE_PX, "lite", 99)
    assert (LITE.hash, LITE.smallest_side_px) == (before, 99)


async def test_the_service_refuses_a_smaller_image_before_it_is_decoded() -> None:
    pool = DecoderPool(lambda _, parts: Prepared.shared(None), 1, check_size=LITE.check_size)  # type: ignore[arg-type]
    try:
        with pytest.raises(InvalidImage, match="too small"):
            await pool.decode(EncodedImage.parse(encoded(Image.new("RGB", (SMALLEST - 1, 40)))))
    finally:
        pool.close()
