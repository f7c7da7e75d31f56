"""The split of the sample's artists covers them all and is what it was."""

import csv

from evaluation.images.recipes import FIT_OWNERS, OWNERS, TEST_OWNERS
from gmvaluator.samples import sample_folder


def test_every_artist_is_in_one_half() -> None:
    with (sample_folder("openclipart") / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        owners = {row["owner_id"] for row in csv.DictReader(lines)}
    assert set(OWNERS) == owners
    assert owners == FIT_OWNERS | TEST_OWNERS
    assert not FIT_OWNERS & TEST_OWNERS


def test_the_halves_do_not_move() -> None:
    """A figure is of artists that nothing was fitted on: another split needs another fit."""
    assert sorted(FIT_OWNERS) == [
        "abiclipart",
        "cezary-biele",
        "codifiedivining",
        "dan-gerhards",
        "daniel-mcrae",
        "jose-hevia",
        "juliane-krug",
        "lauris-kaplinski",
        "linda-kim",
        "mo",
        "nathan-eady",
        "sergio-luiz-araujo-silva",
        "yves-guillou",
    ]
