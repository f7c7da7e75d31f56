"""Changes and compositions are reproducible, take any image, and have the shares they say."""

import random

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from evaluation.images import distortions, held_out
from evaluation.images.changes import FIT_KINDS, THIRD_KINDS, change
from evaluation.images.compositions import FORMS, compose, source_count
from evaluation.images.recipes import SIDE_PX, STRENGTHS, TEST_KINDS, derive, square
from evaluation.images.sample import read_works
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

SAMPLE = sample_folder("openclipart")
FROGS = decode_image((SAMPLE / read_works(SAMPLE)["animals-2-dead-frogs-lumen-desig-01"].file_name).read_bytes())
NEW_KINDS = [kind for kind in (*FIT_KINDS, *held_out.FAMILIES) if kind not in ("crop", "hue", "mirror_blur", "outline")]


def test_no_kind_is_both_fitted_on_and_tested_with() -> None:
    assert not set(FIT_KINDS) & set(THIRD_KINDS)
    assert set(TEST_KINDS) < set(THIRD_KINDS)
    assert len(FIT_KINDS) == len(set(FIT_KINDS))
    assert len(THIRD_KINDS) == 15


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_change_is_reproducible_and_differs_from_the_work(kind: str) -> None:
    before = FROGS.tobytes()
    for strength in STRENGTHS:
        changed, again = (change(kind, strength, FROGS, random.Random(f"{strength}")) for _ in range(2))
        assert (changed.mode, changed.size) == ("RGB", (SIDE_PX, SIDE_PX))
        assert changed.tobytes() == again.tobytes()
        assert sum(ImageStat.Stat(ImageChops.difference(changed, square(FROGS))).mean) / 3 > 0.4
    assert FROGS.tobytes() == before


@pytest.mark.parametrize("kind", [kind for kind in NEW_KINDS if kind != "jpeg"])
def test_a_change_differs_by_its_seed(kind: str) -> None:
    first, other = (change(kind, 3, FROGS, random.Random(seed)) for seed in (5, 6))
    deterministic = {"blur", "pixelation"}
    assert (first.tobytes() == other.tobytes()) == (kind in deterministic)


@pytest.mark.parametrize("kind", [*FIT_KINDS, *THIRD_KINDS])
def test_any_image_can_be_changed(kind: str) -> None:
    for image in (
        Image.new("RGB", (1, 1), "white"),
        Image.new("RGBA", (900, 20), (9, 9, 9, 90)),
        Image.new("L", (9, 40)),
    ):
        assert change(kind, 4, image, random.Random(1)).size == (SIDE_PX, SIDE_PX)


def test_recipes_and_distortions_are_changes_too() -> None:
    recipe = derive("hue", 2, [FROGS], random.Random(3))
    assert change("hue", 2, FROGS, random.Random(3)).tobytes() == recipe.tobytes()
    patched = distortions.distort("patch", 2, square(FROGS), random.Random(3))
    assert change("patch", 2, FROGS, random.Random(3)).tobytes() == patched.tobytes()


@pytest.mark.parametrize(("kind", "strength"), [("melt", 1), ("compose", 1), ("page", 0), ("page", 5), ("rotation", 5)])
def test_what_is_no_change_is_refused(kind: str, strength: int) -> None:
    with pytest.raises(ValueError, match="no change"):
        change(kind, strength, FROGS, random.Random(1))


COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan")


@pytest.mark.parametrize("form", FORMS)
def test_shares_are_the_area_that_each_work_is_seen_in(form: str) -> None:
    sources = [Image.new("RGB", (90, 40), colour) for colour in COLOURS[: source_count(form)]]
    colours = np.array([source.getpixel((0, 0)) for source in sources])
    for seed in range(12):
        composition = compose(form, sources, random.Random(seed))
        assert composition.image.size == (SIDE_PX, SIDE_PX)
        assert sum(composition.shares) == pytest.approx(1)
        assert min(composition.shares) > 0.06
        assert len(composition.boxes) == len(composition.shares) == source_count(form)
        pixels = np.asarray(composition.image, dtype=int)
        for colour, share, box in zip(colours, composition.shares, composition.boxes, strict=True):
            seen = (np.abs(pixels - colour).max(axis=2) == 0).mean()
            assert seen < share + 0.01
            left, top, right, bottom = box
            assert form == "blend-2" or (pixels[(top + bottom) // 2, (left + right) // 2] == colour).all()


@pytest.mark.parametrize("form", ["strips-2", "strips-3", "grid-4", "grid-6"])
def test_cells_cover_the_whole_image(form: str) -> None:
    for seed in range(8):
        composition = compose(form, [FROGS] * source_count(form), random.Random(seed))
        areas = [(right - left) * (bottom - top) for left, top, right, bottom in composition.boxes]
        assert sum(areas) == SIDE_PX**2
        assert composition.shares == pytest.approx([area / SIDE_PX**2 for area in areas])


def test_a_composition_is_reproducible_and_takes_any_image() -> None:
    for form in FORMS:
        sources = [FROGS, Image.new("RGB", (1, 300), "white"), *[Image.new("L", (30, 9), 7)] * 4][: source_count(form)]
        composed, again = (compose(form, sources, random.Random(4)) for _ in range(2))
        assert composed.image.tobytes() == again.image.tobytes()
        assert composed.boxes == again.boxes


@pytest.mark.parametrize(("form", "count"), [("spiral-3", 3), ("grid-4", 3), ("blend-2", 1)])
def test_what_is_no_composition_is_refused(form: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"composition|sources"):
        compose(form, [FROGS] * count, random.Random(1))
