"""Local features of real drawings: what verifies a work, where it is seen, and what does not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageOps

from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.images import decode_image
from gmvaluator.keypoints import GRID, MAX_IMAGE_KEYPOINTS, MAX_KEYPOINTS, LocalFeatures, no_features
from gmvaluator.local_features.detection import Detector
from gmvaluator.local_features.regions import cells_of, mask_of
from gmvaluator.local_features.sightings import MAX_EXAMINED, NEAREST, examine, to_examine, window_sightings
from gmvaluator.local_features.verification import MIN_INLIERS, _matches, verify
from gmvaluator.models.lite_weights import load_detector
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Candidate
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.parts import NOT_SEEN, WHOLE, Sighting

WORKS = (
    "animals-2-dead-frogs-lumen-desig-01",
    "food-fruit-watermelon-simple-bw",
    "food-apple-bitten-dan-gerhard-01",
    "transportation-lorry-length",
)


@cache
def detector() -> Detector:
    return load_detector(profile_identity("lite"))


@cache
def drawing(key: str) -> Image.Image:
    data = (sample_folder("openclipart") / "images" / f"{key}.webp").read_bytes()
    return ImageOps.pad(decode_image(data), (256, 256), color=(255, 255, 255))


@cache
def work(key: str) -> LocalFeatures:
    """Return a work's features as the index returns them."""
    return LocalFeatures.from_text(detector().detect_work(drawing(key)).to_text())


def features(image: Image.Image) -> LocalFeatures:
    return detector().detect_image(image)


def name(number: int) -> TrainingImageId:
    return training_image_id(f"{number:064x}")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        ImageOps.mirror,
        lambda image: image.rotate(40, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
        lambda image: image.rotate(90),
        lambda image: image.resize((140, 140)),
        lambda image: ImageOps.grayscale(image).convert("RGB"),
        lambda image: image.crop((40, 40, 230, 230)),
    ],
    ids=["copy", "mirrored", "turned", "turned by 90", "smaller", "grey", "cropped"],
)
def test_a_changed_work_is_verified(change: object) -> None:
    assert callable(change)
    verified = verify(features(change(drawing(WORKS[0]))), work(WORKS[0]))
    assert verified is not None
    assert verified.inliers >= MIN_INLIERS


def test_the_position_maps_points_of_the_work_into_the_image_and_back() -> None:
    mirrored = verify(features(ImageOps.mirror(drawing(WORKS[0]))), work(WORKS[0]))
    assert mirrored is not None
    assert mirrored.mirrored
    corners = np.array([0.1 + 0.2j, 0.9 + 0.7j])
    np.testing.assert_allclose(mirrored.in_image(corners), [0.9 + 0.2j, 0.1 + 0.7j], atol=0.02)
    np.testing.assert_allclose(mirrored.in_work(mirrored.in_image(corners)), corners, atol=1e-9)


def test_other_works_are_not_verified() -> None:
    counts = [
        verified.inliers
        for image in WORKS
        for other in WORKS
        if other != image and (verified := verify(features(drawing(image)), work(other)))
    ]
    assert counts == []


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (640, 480), (255, 255, 255)),
        Image.new("RGB", (16, 16), (10, 200, 30)),
        Image.new("RGB", (3_000, 17), (0, 0, 0)),
        Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 200, 3), np.uint8)),
    ],
    ids=["blank", "tiny", "narrow", "noise"],
)
def test_images_that_show_no_work_are_examined_all_the_same(image: Image.Image) -> None:
    seen = examine(features(image), {name(1): work(WORKS[0]), name(2): no_features()}, {})
    assert seen.sightings == {}
    assert seen.content is not None


def test_a_collage_shows_each_work_in_its_own_quarter() -> None:
    collage = Image.new("RGB", (512, 512), (255, 255, 255))
    for number, key in enumerate(WORKS):
        collage.paste(drawing(key), (256 * (number % 2), 256 * (number // 2)))
    seen = examine(features(collage), {name(number): work(key) for number, key in enumerate(WORKS)}, {})
    assert set(seen.sightings) == {name(number) for number in range(4)}
    for number in range(4):
        quarter = np.zeros((GRID, GRID), bool)
        half = GRID // 2
        quarter[half * (number // 2) :, half * (number % 2) :][:half, :half] = True
        region = cells_of(seen.sighting(name(number)).region)
        assert (region & quarter).sum() > 0.9 * region.sum()
        assert seen.work_regions[name(number)]


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((512, 256), (4, 12), (0, 16)),
        ((256, 512), (0, 16), (4, 12)),
        ((400, 300), (2, 14), (0, 16)),
        ((300, 300), (0, 16), (0, 16)),
        ((10_000, 20), (7, 9), (0, 16)),
        ((20, 10_000), (0, 16), (7, 9)),
    ],
)
def test_no_cell_beside_an_image_is_content(
    size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    levels = np.random.default_rng(3).integers(0, 120, (8, 8, 3), dtype=np.uint8)
    content = features(Image.fromarray(levels).resize(size, Image.Resampling.NEAREST)).content
    beside = content.copy()
    beside[slice(*rows), slice(*columns)] = False
    assert not beside.any()
    assert content[slice(*rows), slice(*columns)].mean() > 0.9


def test_an_image_of_many_details_keeps_more_keypoints_than_a_work() -> None:
    levels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    detailed = Image.fromarray(levels).resize((2_000, 2_000), Image.Resampling.BICUBIC)
    assert len(detector().detect_work(detailed)) == MAX_KEYPOINTS
    assert len(features(detailed)) == MAX_IMAGE_KEYPOINTS


def test_equal_inputs_give_equal_results() -> None:
    image, other = features(drawing(WORKS[1])), work(WORKS[1])
    first, second = verify(image, other), verify(image, other)
    assert first is not None
    assert second is not None
    assert (first.inliers, first.scale, first.shift) == (second.inliers, second.scale, second.shift)


def test_matches_are_those_of_whole_numbers() -> None:
    """A plain twin: halves of squared distances, and ratios, as whole numbers."""
    image, other = features(drawing(WORKS[0]).resize((150, 150))).descriptors, work(WORKS[0]).descriptors
    expected = []
    for row, descriptor in enumerate(image.astype(int)):
        products = (other.astype(int) @ descriptor).tolist()
        partner = products.index(max(products))
        near, far = (max(127**2 - product, 0) for product in sorted(products, reverse=True)[:2])
        if 25 * near < 16 * far and 200 * near < 81 * 127**2:
            expected.append((row, partner))
    assert len(expected) > MIN_INLIERS
    assert list(zip(*(column.tolist() for column in _matches(image, other)), strict=True)) == expected


def test_the_order_of_keypoints_is_irrelevant() -> None:
    image, other = features(drawing(WORKS[0]).rotate(20)), work(WORKS[0])
    order = np.random.default_rng(2).permutation(len(other))
    shuffled = LocalFeatures(
        other.positions[order], other.sizes[order], other.angles[order], other.descriptors[order], other.mirrored,
        other.content,
    )  # fmt: skip
    first, second = verify(image, other), verify(image, shuffled)
    assert first is not None
    assert second is not None
    assert (first.inliers, first.scale, first.shift) == (second.inliers, second.scale, second.shift)


def _at_one_place(count: int) -> LocalFeatures:
    """Return features of which only the descriptors differ."""
    drawn = features(drawing(WORKS[0]))
    where = np.full((count, 2), 0.5, np.float32)
    size, angle = np.full(count, 0.1, np.float32), np.zeros(count, np.float32)
    return LocalFeatures(where, size, angle, drawn.descriptors[:count], drawn.mirrored[:count], drawn.content)


def _in_a_line(count: int) -> LocalFeatures:
    line = _at_one_place(count)
    line.positions[:, 0] = np.linspace(0, 1, count)
    return line


def test_matches_at_one_place_verify_nothing() -> None:
    assert verify(_at_one_place(40), _at_one_place(40)) is None
    assert verify(_in_a_line(40), _at_one_place(40)) is None
    assert verify(_at_one_place(40), _in_a_line(40)) is None


def test_equal_descriptors_match_nothing() -> None:
    image = _in_a_line(40)
    image.descriptors[:] = image.descriptors[0]
    image.mirrored[:] = image.mirrored[0]
    assert verify(image, image) is None


def test_matches_in_a_line_place_a_work() -> None:
    verified = verify(_in_a_line(40), _in_a_line(40))
    assert verified is not None
    assert (verified.inliers, verified.mirrored) == (40, False)
    assert verified.scale == pytest.approx(1)


@pytest.mark.parametrize("size", [(10_000, 20), (20, 10_000), (64, 64), (8, 8)])
def test_the_longest_and_smallest_images_are_described_within_bounds(size: tuple[int, int]) -> None:
    tile = drawing(WORKS[0]).resize((min(size), min(size)))
    image = Image.new("RGB", size)
    for start in range(0, max(size), min(size)):
        image.paste(tile, (start, 0) if size[0] > size[1] else (0, start))
    assert len(features(image)) <= MAX_IMAGE_KEYPOINTS
    described = detector().detect_work(image)
    assert LocalFeatures.from_bytes(described.to_bytes()).content.tolist() == described.content.tolist()


def test_an_image_with_endless_equal_keypoints_keeps_a_bounded_number() -> None:
    spot = np.pad(np.full((4, 4), 255, np.uint8), 4)
    image = Image.fromarray(np.tile(spot, (32, 32))).convert("RGB")
    searched, described = features(image), detector().detect_work(image)
    assert (len(searched), len(described)) == (MAX_IMAGE_KEYPOINTS, MAX_KEYPOINTS)
    seen = examine(searched, {name(number): described for number in range(3)}, {})
    assert seen.content == WHOLE


def test_a_work_keeps_the_window_nearest_to_it() -> None:
    recalled = [[Candidate(name(1), 0.5), Candidate(name(2), 0.4)], [Candidate(name(1), 0.9)]]
    assert window_sightings(recalled, (1, 2)) == {
        name(1): Sighting(window=2, window_distance=100_000),
        name(2): Sighting(window=1, window_distance=600_000),
    }


def test_the_nearest_works_of_image_and_windows_are_examined_up_to_a_bound() -> None:
    nearest = [name(number) for number in range(100)]
    sightings = {name(200 + number): Sighting(window=1, window_distance=number) for number in range(100)}
    chosen = to_examine(nearest, sightings)
    assert len(chosen) == MAX_EXAMINED
    assert chosen[:NEAREST] == nearest[:NEAREST]
    assert chosen[NEAREST:] == list(sightings)[: MAX_EXAMINED - NEAREST]


def test_a_verified_work_keeps_its_window_too() -> None:
    sightings = {name(1): Sighting(window=WHOLE, window_distance=5), name(2): Sighting(window=1, window_distance=9)}
    seen = examine(features(drawing(WORKS[0])), {name(1): work(WORKS[0])}, sightings)
    assert seen.sighting(name(1)).window_distance == 5
    assert seen.sighting(name(1)).inliers >= MIN_INLIERS
    assert seen.sighting(name(2)) == sightings[name(2)]
    assert seen.sighting(name(3)) == NOT_SEEN


def test_masks_of_cells_are_read_again() -> None:
    cells = np.random.default_rng(1).random((GRID, GRID)) < 0.3
    np.testing.assert_array_equal(cells_of(mask_of(cells)), cells)
    assert mask_of(cells) >> 17 & 1 == cells[1, 1]
