"""Local features as the index stores them."""

from __future__ import annotations

import numpy as np
import pytest

from gmvaluator.errors import InvalidVector
from gmvaluator.keypoints import MAX_IMAGE_KEYPOINTS, MAX_KEYPOINTS, LocalFeatures, no_features


def _features(count: int) -> LocalFeatures:
    rng = np.random.default_rng(5)
    return LocalFeatures(
        rng.random((count, 2), np.float32),
        rng.uniform(0.005, 0.5, count).astype(np.float32),
        rng.uniform(0, 2 * np.pi, count).astype(np.float32),
        rng.integers(-127, 128, (count, 32), np.int8),
        np.empty((0, 32), np.int8),
        rng.random((16, 16)) < 0.5,
    )


def test_stored_features_are_those_that_were_given_up_to_their_precision() -> None:
    features = _features(MAX_KEYPOINTS)
    stored = LocalFeatures.from_text(features.to_text())
    np.testing.assert_allclose(stored.positions, features.positions, atol=1e-5)
    np.testing.assert_allclose(stored.sizes, features.sizes, rtol=0.02)
    turns = np.angle(np.exp(1j * (stored.angles - features.angles)))
    assert np.abs(turns).max() < 0.013
    np.testing.assert_array_equal(stored.descriptors, features.descriptors)
    np.testing.assert_array_equal(stored.content, features.content)


def test_a_work_takes_less_than_twelve_kilobytes() -> None:
    assert len(_features(MAX_KEYPOINTS).to_bytes()) <= 12 * 1024


def test_an_image_without_keypoints_has_features_too() -> None:
    assert len(LocalFeatures.from_text(no_features().to_text())) == 0


@pytest.mark.parametrize("place", [0, 4, 50, -1])
def test_damage_is_found(place: int) -> None:
    data = bytearray(_features(3).to_bytes())
    data[place] ^= 1
    with pytest.raises(InvalidVector, match="checksum"):
        LocalFeatures.from_bytes(bytes(data))


@pytest.mark.parametrize("data", [b"", b"abc", b"x" * 40, bytes(36 + 38 * (MAX_KEYPOINTS + 1))])
def test_bytes_of_another_length_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidVector, match="local features of"):
        LocalFeatures.from_bytes(data)


def test_more_keypoints_are_read_only_where_they_are_expected() -> None:
    data = _features(MAX_KEYPOINTS + 1).to_bytes()
    with pytest.raises(InvalidVector, match=f"up to {MAX_KEYPOINTS} keypoints"):
        LocalFeatures.from_bytes(data)
    assert len(LocalFeatures.from_bytes(data, MAX_IMAGE_KEYPOINTS)) == MAX_KEYPOINTS + 1


@pytest.mark.parametrize("text", ["%%%", "abc", "ü"])
def test_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidVector, match="not base64"):
        LocalFeatures.from_text(text)
