"""Calibration on an operator's own works: what it draws from, what it refuses at once, and what it does not write."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from evaluation.images.sample import Work
from evaluation.known_source import calibration, own_works
from evaluation.known_source.calibration import Index, calibrate, check_found, held_out_log_likelihood
from evaluation.known_source.observations import Observation, Retrieval
from evaluation.known_source.own_works import MIN_WORKS, OwnWorks, policies_in_use, read_own_works, split
from evaluation.known_source.policy_file import Extra
from evaluation.known_source.queries import Query
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.main import gmvaluator as program
from gmvaluator.errors import Conflict, InvalidPolicy, MissingIndex, PreconditionFailed, ProfileMismatch
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.images import thumbnail_path
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Generator
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.index import EXAMPLE_IDENTITY, MemoryIndex, MemoryStore, example_points
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.residual import VirtualContributor

WORKS = [training_image_id(sha256_hex(f"work {number}".encode())) for number in range(60)]
PAPER = load_policy("paper@1")
GATED = Policy("gated", 1, 200, 3, Decimal("0.02"), VirtualContributor(Decimal("0.5")))


def observation(
    source: TrainingImageId | None, distances: Sequence[int], groups: Sequence[TrainingImageId] = (), group: str = "a"
) -> Observation:
    """An image of `source`, for which the index finds the first works at these distances."""
    near = tuple(WORKS[: len(distances)])
    sources = {} if source is None else {source: 1.0}
    keys = tuple((str(work), share) for work, share in sources.items())
    query = Query("crop", 1, keys, group, Image.new("RGB", (8, 8)))
    return Observation(query, sources, Retrieval(near, tuple(distances), near, tuple(distances), 0.9, tuple(groups)))


def owned(owners: int, works: int) -> list[Work]:
    return [Work(str(number), f"{number}.webp", f"owner:{number % owners}", "") for number in range(works)]


@pytest.mark.parametrize(("owners", "whole"), [(12, True), (10, True), (9, False), (1, False)])
def test_whole_owners_are_held_out_where_there_are_enough(owners: int, whole: bool) -> None:
    works = owned(owners, 240)
    fit, test = split(works)
    assert {work.key for work in fit} | {work.key for work in test} == {work.key for work in works}
    assert not {work.owner_id for work in fit} & {work.owner_id for work in test}
    assert 80 <= len(fit) <= 160
    assert split(works) == (fit, test)
    assert ("owner:0" in {work.owner_id for work in (*fit, *test)}) == whole


def test_one_owner_of_most_works_is_not_held_out_whole() -> None:
    works = [replace(work, owner_id="owner:0") if number % 3 else work for number, work in enumerate(owned(60, 300))]
    fit, test = split(works)
    assert min(len(fit), len(test)) > 100


def test_the_likelihood_counts_the_share_of_the_source_or_of_nobody() -> None:
    near, stranger = observation(WORKS[0], [50_000, 600_000]), observation(None, [900_000, 950_000])
    assert held_out_log_likelihood(GATED, [near]) == pytest.approx(0, abs=1e-3)
    assert held_out_log_likelihood(GATED, [stranger]) == pytest.approx(0, abs=1e-3)
    assert held_out_log_likelihood(PAPER, [stranger]) == pytest.approx(np.log(1e-6))
    assert held_out_log_likelihood(PAPER, [near, stranger]) < held_out_log_likelihood(GATED, [near, stranger])


def test_policies_with_and_without_groups_are_measured_alike() -> None:
    """Near-duplicates share what is paid for their work, whether the policy groups them or not."""
    twins = observation(WORKS[0], [50_000, 50_000, 900_000], [WORKS[0], WORKS[0], WORKS[2]])
    alone, grouped = (replace(GATED, groups=groups) for groups in (None, "nearest"))
    assert held_out_log_likelihood(alone, [twins]) == pytest.approx(0, abs=1e-3)
    assert held_out_log_likelihood(grouped, [twins]) == pytest.approx(0, abs=1e-3)


def test_an_index_that_does_not_hold_the_works_is_refused() -> None:
    absent = training_image_id("0" * 64)
    check_found([observation(WORKS[0], [50_000]), observation(absent, [500_000])])
    with pytest.raises(PreconditionFailed, match="finds 0 of 9 works"):
        check_found([observation(absent, [500_000])] * 9)


def test_a_policy_worse_than_the_one_in_use_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    seen = [
        observation(
            WORKS[0] if number % 3 else None, sorted(rng.integers(50_000, 900_000, 55).tolist()), (), str(number % 9)
        )
        for number in range(90)
    ]
    monkeypatch.setattr(calibration, "_observe", lambda *_: seen)
    index = Index(tmp_path, "works", cast(Any, SimpleNamespace(identity=EXAMPLE_IDENTITY)))
    own, path = OwnWorks(tmp_path, (), (), {}, frozenset()), tmp_path / "mine@1.toml"

    likelihoods = {"mine@1": -1.0, "paper@1": -2.0, "gated@1": -0.5}
    monkeypatch.setattr(calibration, "held_out_log_likelihood", lambda policy, _: likelihoods[policy.reference])
    worse = calibrate(path, index, own, [PAPER, GATED], short=True, extra=Extra())
    assert (worse.file, worse.in_use, path.exists()) == (None, "gated@1", False)
    better = calibrate(path, index, own, [PAPER], short=True, extra=Extra())
    assert (better.file, better.in_use) == (path, "paper@1")
    assert (better.figures["held_out_log_likelihood"], better.figures["held_out_log_likelihood_in_use"]) == (-1.0, -2.0)
    assert load_policy("mine@1", tmp_path).profile == EXAMPLE_IDENTITY.hash


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataLocation:
    """Data with a collection of MIN_WORKS works with thumbnails, without an engine."""
    (tmp_path / "index").mkdir()
    store = MemoryStore(MemoryIndex())
    store.create(EXAMPLE_IDENTITY)
    points = example_points(MIN_WORKS)
    store.upsert(points)
    monkeypatch.setattr(own_works, "open_store", lambda *_, **__: store)
    for point in points:
        file = thumbnail_path(thumbnails_folder(tmp_path), point.training_image_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return DataLocation(tmp_path)


def read(place: DataLocation) -> OwnWorks:
    return read_own_works(place, place.folder / "index", "works", EXAMPLE_IDENTITY)


def test_works_are_drawn_from_the_operators_own_index(indexed: DataLocation) -> None:
    own = read(indexed)
    assert len(own.fit) + len(own.test) == len(own.ids) == MIN_WORKS
    assert all((own.folder / work.file_name).is_file() for work in (*own.fit, *own.test))
    assert not own.indexed


def test_too_few_works_are_refused(indexed: DataLocation) -> None:
    next(thumbnails_folder(indexed.folder).rglob("*.webp")).unlink()
    with pytest.raises(PreconditionFailed, match=f"{MIN_WORKS - 1} of the {MIN_WORKS} works .* a calibration needs"):
        read(indexed)


def test_another_profile_and_a_missing_index_are_refused(indexed: DataLocation, tmp_path: Path) -> None:
    with pytest.raises(ProfileMismatch):
        read_own_works(indexed, tmp_path / "index", "works", profile_identity("lite"))
    with pytest.raises(MissingIndex, match="there is no index in"):
        read_own_works(indexed, tmp_path / "elsewhere", "works", EXAMPLE_IDENTITY)
    assert not (tmp_path / "elsewhere").exists()


def test_the_policies_in_use_are_those_of_the_collections_generators(tmp_path: Path) -> None:
    place, lite = DataLocation(tmp_path), profile_identity("lite")

    def references(collection: str, identity: Any) -> list[str]:
        return [policy.reference for policy in policies_in_use(place, collection, identity)]

    assert references("works", lite) == ["calibrated@3"]
    assert references("works", EXAMPLE_IDENTITY) == ["paper@1"]
    with open_catalogue(place, write=True) as catalogue:
        catalogue.add_data_set("set")
        catalogue.add_generator(Generator("a", "works", ("set",), "paper@1"))
        catalogue.add_generator(Generator("b", "works", ("set",), "calibrated@3"))
        catalogue.add_generator(Generator("c", "others", ("set",), "paper@1"))
    assert references("works", lite) == ["calibrated@3", "paper@1"]
    assert references("works", EXAMPLE_IDENTITY) == ["paper@1"]
    assert references("others", lite) == ["paper@1"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--policy", "paper@9"), InvalidPolicy),
        (("--policy", "mine"), InvalidPolicy),
        (("--hold-above", "wide"), InvalidPolicy),
        (("--policy", "mine@1"), Conflict),
        (("--policy", "mine@2"), MissingIndex),
    ],
)
def test_what_cannot_work_is_refused_before_any_model_is_loaded(
    tmp_path: Path, words: Sequence[str], error: type[Exception]
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine@1.toml").touch()
    with pytest.raises(error):
        CliRunner().invoke(program, ["calibrate", *words, "--data", str(tmp_path)], catch_exceptions=False)
