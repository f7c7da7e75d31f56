"""Windows cover the drawn box, and weighting a view keeps its vector a unit vector."""

import numpy as np
import pytest
from PIL import Image

from gmvaluator.models.lite_views import (
    BLUR_WEIGHT,
    VIEWS,
    WINDOW_SHARE,
    WINDOW_WEIGHT,
    drawn_box,
    pad_whole,
    views_of,
    weight_blurs,
    weight_windows,
)


def drawing(box: tuple[int, int, int, int], size: tuple[int, int] = (200, 100)) -> Image.Image:
    """Stripes within a box."""
    image = Image.new("RGB", size, "white")
    image.paste("navy", box)
    for x in range(box[0] + 4, box[2] - 4, 8):
        image.paste("gold", (x, box[1] + 4, x + 4, box[3] - 4))
    return image


def test_what_is_drawn_is_found_on_its_paper() -> None:
    assert drawn_box(drawing((30, 20, 90, 80))) == (30, 20, 90, 80)
    assert drawn_box(Image.new("RGB", (7, 5), "white")) == (0, 0, 7, 5)


def test_the_first_view_is_the_whole_and_windows_are_of_one_size() -> None:
    image = drawing((30, 20, 90, 80))
    first, *windows = views_of(image)
    assert first is image
    assert len(windows) == VIEWS - 1
    assert {window.size for window in windows} == {(round(WINDOW_SHARE * 60),) * 2}


def test_a_window_that_shows_nothing_is_the_whole_again() -> None:
    image = Image.new("RGB", (100, 100), "white")
    image.paste("navy", (0, 0, 20, 20))
    image.paste("navy", (80, 80, 100, 100))
    views = views_of(image)
    assert [view is image for view in views] == [True, False, True, True, True, True, True, True, True, False]


def test_a_very_large_image_is_reduced() -> None:
    image = drawing((300, 200, 2900, 1800), (3000, 2000))
    assert max(views_of(image)[0].size) == 1024


def test_windows_cover_what_is_drawn() -> None:
    """A mark in each corner of the drawing and in its middle is in at least one window."""
    for corner in ((30, 20), (88, 20), (30, 78), (88, 78), (59, 49)):
        image = drawing((30, 20, 90, 80))
        image.paste("red", (*corner, corner[0] + 2, corner[1] + 2))
        with_mark = [window for window in views_of(image)[1:] if (np.asarray(window) == (255, 0, 0)).all(axis=2).any()]
        assert with_mark


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (8, 8)])
def test_any_image_has_its_views(size: tuple[int, int]) -> None:
    views = views_of(Image.new("RGB", size, "teal"))
    assert len(views) == VIEWS
    assert all(min(view.size) >= 1 for view in views)


def test_a_weight_view_has_so_much_of_its_cosine_and_is_a_unit_vector() -> None:
    rows = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    query, work = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = query @ work
    plain, blurred = pad_whole(query[None])[0], weight_blurs(query[None])[0]
    stored, window = pad_whole(work[None])[0], weight_windows(work[None])[0]
    for vector in (plain, blurred, stored, window):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert plain @ stored == pytest.approx(cosine, abs=1e-6)
    assert plain @ window == pytest.approx(WINDOW_WEIGHT * cosine, abs=1e-6)
    assert blurred @ stored == pytest.approx(BLUR_WEIGHT * cosine, abs=1e-6)
    assert blurred @ window == pytest.approx(BLUR_WEIGHT * WINDOW_WEIGHT * cosine, abs=1e-6)
