"""Validation of records for the catalogue."""

from dataclasses import replace

import pytest

from gmvaluator.catalogue.records import NewWork, OwnerReference, check_data_set, check_key, check_model_version
from gmvaluator.errors import InvalidInput, InvalidManifest
from gmvaluator.ids import sha256_hex, training_image_id

SHA256 = sha256_hex(b"a work")
WORK = NewWork(training_image_id(SHA256), SHA256, 640, 480, "paintings", "a", "file:///a.png")


@pytest.mark.parametrize("name", ["a", "Open-Clip_Art.0.18", "x" * 64])
def test_good_data_sets(name: str) -> None:
    assert check_data_set(name) == name


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "a/b", "x" * 65, "a\n", "ä"])
def test_bad_data_sets_say_what_is_allowed(name: str) -> None:
    with pytest.raises(InvalidInput, match="1-64 characters"):
        check_data_set(name)


@pytest.mark.parametrize("name", ["", "a b", "x" * 201, "a\n", "@a"])
def test_bad_model_versions_say_what_is_allowed(name: str) -> None:
    with pytest.raises(InvalidInput, match="1-200 characters"):
        check_model_version(name)


def test_an_id_that_is_not_the_images_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not the id"):
        replace(WORK, sha256=sha256_hex(b"another work"))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": -1},
        {"data_set": "a b"},
        {"key": "k" * 10_001},
        {"title": "a\0b"},
        {"labels": ("x",) * 1_001},
        {"labels": ("x" * 10_001,)},
    ],
)
def test_values_out_of_bounds_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        replace(WORK, **change)  # type: ignore[arg-type]


def test_an_owner_needs_an_id() -> None:
    with pytest.raises(InvalidManifest, match="leave the owner out"):
        OwnerReference("", "Ada")


def test_a_key_is_as_long_as_postgresql_can_index() -> None:
    assert check_key("ü" * 1_000) == "ü" * 1_000
    for key in ("ü" * 1_001, "k" * 2_001):
        with pytest.raises(InvalidManifest, match="name the image by a shorter one"):
            check_key(key)
