"""Derivatives are reproducible, differ by strength, and the committed images are what their recipes say."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from evaluation.images.make_examples import ROUNDS, encode
from evaluation.images.recipes import KINDS, SIDE_PX, STRENGTHS, TEST_KINDS, derive, source_count, square
from evaluation.images.sample import Recipe, draw_sources, read_recipes, read_works, render
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

GENERATED = sample_folder("generated")
SAMPLE = sample_folder("openclipart")
RECIPES = read_recipes(GENERATED)
WORKS = read_works(SAMPLE)


def drawings(count: int) -> list[Image.Image]:
    """Works of different shapes and colours."""
    keys = ("animals-birds-dove-symbol", "animals-2-dead-frogs-lumen-desig-01")
    return [decode_image((SAMPLE / WORKS[key].file_name).read_bytes()) for key in keys[:count]]


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference in levels of 255."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


@pytest.mark.parametrize("kind", [*KINDS, *TEST_KINDS])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_same_seed_gives_the_same_pixels(kind: str, strength: int) -> None:
    sources = drawings(source_count(kind))
    one, again, other = (derive(kind, strength, sources, random.Random(seed)) for seed in (5, 5, 6))
    assert one.mode == "RGB"
    assert one.size == (SIDE_PX, SIDE_PX)
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize("kind", [*KINDS, *TEST_KINDS])
def test_a_derivative_is_not_its_source(kind: str) -> None:
    sources = drawings(source_count(kind))
    for strength in STRENGTHS:
        assert difference(derive(kind, strength, sources, random.Random(1)), square(sources[0])) > 1


def test_sources_are_left_as_they_were() -> None:
    sources = drawings(2)
    before = [source.tobytes() for source in sources]
    for kind in (*KINDS, *TEST_KINDS):
        derive(kind, 4, sources[: source_count(kind)], random.Random(1))
    assert [source.tobytes() for source in sources] == before


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3000, 20)])
@pytest.mark.parametrize("kind", [*KINDS, *TEST_KINDS])
def test_any_shape_and_blank_paper_can_be_derived_from(kind: str, size: tuple[int, int]) -> None:
    for colour in ("white", "navy"):
        sources = [Image.new("RGB", size, colour)] * source_count(kind)
        assert derive(kind, 3, sources, random.Random(1)).size == (SIDE_PX, SIDE_PX)


@pytest.mark.parametrize(("kind", "strength", "sources"), [("melt", 1, 1), ("crop", 5, 1), ("crop", 1, 2)])
def test_what_is_no_recipe_is_refused(kind: str, strength: int, sources: int) -> None:
    with pytest.raises(ValueError, match=r"recipe|sources"):
        derive(kind, strength, drawings(sources), random.Random(1))


def test_every_kind_and_strength_is_among_the_examples() -> None:
    assert Counter((recipe.kind, recipe.strength) for recipe in RECIPES) == {
        (kind, strength): ROUNDS for kind in KINDS for strength in STRENGTHS
    }
    assert sorted(path.name for path in GENERATED.glob("*.webp")) == [recipe.file_name for recipe in RECIPES]


def test_examples_come_from_every_artist_and_name_works_of_the_sample() -> None:
    used = {WORKS[key].owner_id for recipe in RECIPES for key in recipe.sources}
    assert used == {work.owner_id for work in WORKS.values()}
    assert all(len(recipe.sources) == source_count(recipe.kind) for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.file_name)
def test_the_committed_file_is_the_one_recorded(recipe: Recipe) -> None:
    assert sha256_hex((GENERATED / recipe.file_name).read_bytes()) == recipe.sha256


@pytest.mark.parametrize("recipe", RECIPES[:20], ids=lambda recipe: recipe.file_name)
def test_a_recipe_makes_its_image_again(recipe: Recipe) -> None:
    """The same pixels with the library that wrote the files; another version of it may round otherwise."""
    sources = [WORKS[key] for key in recipe.sources]
    again = decode_image(encode(render(recipe.kind, recipe.strength, sources, SAMPLE, recipe.seed)))
    kept = decode_image((GENERATED / recipe.file_name).read_bytes())
    assert difference(again, kept) < 1


def test_sources_are_drawn_from_each_owner_in_turn() -> None:
    owners = {work.owner_id for work in WORKS.values()}
    draw = draw_sources(list(WORKS.values()), random.Random(3))
    for _ in range(2):
        assert {next(draw).owner_id for _ in owners} == owners


def test_hue_turns_colours_and_keeps_shapes() -> None:
    image = Image.new("RGB", (64, 64), "red")
    image.paste((0, 0, 0), (16, 16, 48, 48))
    pixels = np.asarray(derive("hue", 1, [image], random.Random(2)), dtype=int)
    dark, light = pixels[128, 128].mean(), pixels[10, 10].mean()
    assert dark < light
    assert tuple(pixels[10, 10]) != (255, 0, 0)
