"""Known sources: the images are what the plan says, and what is measured of them is right."""

import json
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.images.changes import THIRD_KINDS
from evaluation.images.compositions import FORMS
from evaluation.images.make_foreign_set import read_list, write_table
from evaluation.images.recipes import STRENGTHS, TEST_KINDS, WEIGHTS, compose_weighted, square
from evaluation.images.sample import Foreign, read_foreign, read_works
from evaluation.known_source import measures
from evaluation.known_source.measures import credit, is_kind, is_single
from evaluation.known_source.observations import Observation, Retrieval, require_foreign
from evaluation.known_source.owner_effects import gallery, quality_effects
from evaluation.known_source.policies import apply_policy, by_policy, uniform, without_reranking
from evaluation.known_source.queries import (
    FIT,
    FOURTH,
    PARTS_FIT,
    SHORT_FIT,
    SHORT_FOURTH,
    SHORT_PARTS_FIT,
    SHORT_TEST,
    SHORT_THIRD,
    TEST,
    THIRD,
    Plan,
    Query,
    make_queries,
    train_autoencoder,
)
from evaluation.known_source.section import known_source_section, trade_off
from evaluation.report import plots
from evaluation.report.sections import table_to_json
from gmvaluator.errors import InvalidInput
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.residual import VirtualContributor

FOLDER = sample_folder("openclipart")
WORKS = list(read_works(FOLDER).values())
IDS = [training_image_id(work.sha256) for work in WORKS]
SHARP = Policy("sharp", 1, 200, 3, Decimal("0.02"))
GATED = Policy("gated", 1, 200, 3, Decimal("0.02"), VirtualContributor(Decimal("0.5")))


def observation(
    sources: dict[TrainingImageId, float], distances: list[int], kind: str = "crop", strength: int = 1
) -> Observation:
    """The sample's first works lie at these distances, in this order."""
    near = tuple(IDS[: len(distances)])
    keys = tuple((WORKS[IDS.index(source)].key, share) for source, share in sources.items())
    query = Query(kind, strength, keys, f"group-{kind}", Image.new("RGB", (8, 8)))
    return Observation(query, sources, Retrieval(near, tuple(distances), near, tuple(distances), 0.9))


def present(nearest: int = 50_000, kind: str = "crop", strength: int = 1) -> Observation:
    return observation({IDS[0]: 1.0}, [nearest, 600_000, 700_000, 800_000], kind, strength)


def foreign(nearest: int = 700_000, kind: str = "photo") -> Observation:
    return observation({}, [nearest, 800_000, 900_000], kind, 0)


PLANS = [
    (FIT, SHORT_FIT),
    (TEST, SHORT_TEST),
    (PARTS_FIT, SHORT_PARTS_FIT),
    (THIRD, SHORT_THIRD),
    (FOURTH, SHORT_FOURTH),
]


SMALL = {
    "fit": replace(FIT, per_cell=3, copies=1, composed=1, noise=6),
    "test": replace(TEST, per_cell=2, copies=2, composed=1, noise=6, reconstructed=2),
    "parts": replace(PARTS_FIT, per_cell=1, copies=1, noise=6, per_form=2),
    "third": replace(THIRD, per_cell=1, copies=1, noise=6, per_form=2),
}
"""Plans with fewer images, of each kind at least one; not the short ones, so that these can change."""


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Query]]:
    """The images of the plans."""
    return {name: make_queries(plan, WORKS, FOLDER) for name, plan in SMALL.items()}


@pytest.mark.parametrize(("plan", "short"), PLANS)
def test_a_short_plan_asks_less_of_the_same(plan: Plan, short: Plan) -> None:
    assert (plan.split, plan.owners, plan.kinds) == (short.split, short.owners, short.kinds)
    assert plan.per_cell > short.per_cell
    kinds = {query.kind for query in make_queries(short, WORKS, FOLDER)}
    assert {*short.kinds, "copy", "noise", "stranger", "photo", "digit"} <= kinds


def test_what_is_tested_was_not_fitted_on(drawn: dict[str, list[Query]]) -> None:
    assert not (FIT.owners | PARTS_FIT.owners) & (TEST.owners | THIRD.owners | FOURTH.owners)
    assert not {*FIT.kinds, *PARTS_FIT.kinds} & {*TEST_KINDS, *THIRD.kinds, *FOURTH.kinds}
    assert len({plan.seed for plan in (FIT, TEST, PARTS_FIT, THIRD, FOURTH)}) == 5
    fit, test = [*drawn["fit"], *drawn["parts"]], [*drawn["test"], *drawn["third"]]
    owner_of = {work.key: work.owner_id for work in WORKS}
    assert {owner_of[key] for query in fit for key, _ in query.sources} <= FIT.owners
    assert {owner_of[key] for query in test for key, _ in query.sources} <= TEST.owners
    foreign_groups = [{query.group for query in queries if not query.sources} for queries in (fit, test)]
    shared = {group for group in foreign_groups[0] & foreign_groups[1] if not group.startswith("noise/")}
    assert not shared


@pytest.mark.parametrize("name", ["test", "third"])
def test_the_same_plan_gives_the_same_images(name: str, drawn: dict[str, list[Query]]) -> None:
    again = make_queries(SMALL[name], WORKS, FOLDER)
    assert [query.image.tobytes() for query in drawn[name]] == [query.image.tobytes() for query in again]


def test_shares_sum_to_one_over_different_works(drawn: dict[str, list[Query]]) -> None:
    for query in (query for queries in drawn.values() for query in queries if query.sources):
        assert sum(share for _, share in query.sources) == pytest.approx(1)
        assert len({key for key, _ in query.sources}) == len(query.sources)


def test_earlier_draws_are_what_they_were(drawn: dict[str, list[Query]]) -> None:
    """Quoted figures are of these images: whoever adds to a plan must not draw other works for what it had."""
    labels = {
        name: sha256_hex(repr([(q.kind, q.strength, q.sources, q.group) for q in drawn[name]]).encode())
        for name in ("fit", "test")
    }
    assert labels == {
        "fit": "2e476d85658b91e8a8f7541681966f546c2ed29c66acd27af7a35c253006cf3d",
        "test": "8d7c20a309701c14cecc1c1ef40e0c7fe8afad8955b91095e1959f72682b826c",
    }
    pixels = {
        (name, kind): sha256_hex(next(q for q in drawn[name] if q.kind == kind).image.tobytes())[:12]
        for name, kind in (
            ("fit", "crop"),
            ("fit", "copy"),
            ("test", "crop"),
            ("test", "perspective"),
            ("test", "copy"),
        )
    }
    assert pixels == {
        ("fit", "crop"): "3e28cf3c0d47",
        ("fit", "copy"): "d1a3d22ceff8",
        ("test", "crop"): "6dd27cb07227",
        ("test", "perspective"): "0862f41b7665",
        ("test", "copy"): "8cd63b2858e9",
    }


def test_the_third_draw_has_every_kind_and_form(drawn: dict[str, list[Query]]) -> None:
    counts = Counter(query.kind for query in drawn["third"])
    assert {kind: counts[kind] for kind in THIRD_KINDS} == dict.fromkeys(THIRD_KINDS, 4)
    assert {form: counts[form] for form in FORMS} == dict.fromkeys(FORMS, 2)
    assert {len(query.sources) for query in drawn["third"]} == {0, 1, 2, 3, 4, 6}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("strength", [1, 4])
def test_a_composition_has_the_shares_it_is_said_to_have(count: int, strength: int) -> None:
    colours = ["red", "lime", "blue"][:count]
    sources = [Image.new("RGB", (64, 64), colour) for colour in colours]
    for seed in range(6):
        pixels = np.asarray(compose_weighted(strength, sources, random.Random(seed)), dtype=float) / 255
        shares = pixels.mean(axis=(0, 1))[:count]
        assert shares == pytest.approx(WEIGHTS[count][strength - 1], abs=0.01)


def test_ranks_are_places_among_what_was_found() -> None:
    assert observation({IDS[2]: 1.0}, [1, 2, 3]).ranks == (2,)
    assert observation({IDS[5]: 1.0}, [1, 2, 3]).ranks[0] > 1_000


def test_credit_goes_to_the_source_or_to_nobody() -> None:
    observations = [present(), present(), foreign(), foreign(kind="noise")]
    one = apply_policy(by_policy(GATED), observations)
    assert measures.credit(one, measures.is_single).value == pytest.approx(1, abs=1e-6)
    assert measures.unattributed(one, measures.is_foreign).value == pytest.approx(1, abs=1e-3)
    assert measures.absent_auc(one).value == 1
    flat = apply_policy(uniform(3), observations)
    assert measures.credit(flat, measures.is_single).value == pytest.approx(1 / 3)
    assert measures.unattributed(flat, measures.is_foreign).value == 0
    assert measures.absent_auc(flat).value == 0.5


def test_without_reranking_the_recall_distances_count() -> None:
    one = apply_policy(without_reranking(SHARP), [present()])
    assert one.to_sources[0] == pytest.approx(1, abs=1e-6)


def test_a_composition_error_is_the_mean_distance_of_shares() -> None:
    even = observation({IDS[0]: 0.7, IDS[1]: 0.3}, [100_000, 100_000, 1_900_000], "two")
    assert measures.composition_error(apply_policy(by_policy(SHARP), [even])).value == pytest.approx(0.2)


def test_shares_that_are_too_sure_have_a_calibration_error() -> None:
    wrong = observation({IDS[1]: 1.0}, [50_000, 600_000, 700_000])
    right = measures.reliability(apply_policy(by_policy(GATED), [present()] * 10))
    half = measures.reliability(apply_policy(by_policy(GATED), [present()] * 5 + [wrong] * 5))
    assert right.error == pytest.approx(0, abs=1e-3)
    assert half.error == pytest.approx(0.5, abs=1e-3)


def test_calibration_is_of_plain_images_unless_all_are_wanted() -> None:
    composed = observation({IDS[1]: 0.6, IDS[2]: 0.4}, [50_000, 1_600_000, 1_700_000], "two")
    both = apply_policy(by_policy(GATED), [present()] * 5 + [composed] * 5)
    assert measures.reliability(both).count.sum() == 5
    assert measures.reliability(both, measures.is_any).error == pytest.approx(0.5, abs=1e-3)


def test_moving_the_gate_trades_credit_for_strangers() -> None:
    observations = [present(300_000), present(450_000), foreign(480_000), foreign(600_000)]
    main, bare = apply_policy(by_policy(GATED), observations), apply_policy(by_policy(SHARP), observations)
    cost, kept = trade_off(main, bare, "photo")
    assert list(cost) == sorted(cost)
    assert list(kept) == sorted(kept)
    assert kept[0] < 0.1 < 0.9 < kept[-1]


@pytest.mark.parametrize(
    ("kinds", "composed", "wanted"),
    [
        (["reconstruction", *TEST.kinds], ["two", "three"], "credit_to_source_seen_recipes"),
        (THIRD.kinds, FORMS, "credit_to_source_stained_glass"),
    ],
    ids=["second", "third"],
)
def test_the_section_has_every_figure_and_pictures(
    kinds: list[str], composed: list[str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "RESAMPLES", 20)
    observations = [present(kind=kind, strength=strength) for kind in ["copy", *kinds] for strength in (1, 2, 3, 4)]
    observations += [foreign(kind=kind) for kind in ("photo", "noise", "digit", "stranger")]
    observations += [observation({IDS[0]: 0.5, IDS[1]: 0.5}, [100, 100, 200], kind) for kind in composed]
    main, bare, paper = (apply_policy(by_policy(policy), observations) for policy in (GATED, SHARP, SHARP))
    section = known_source_section(observations, [main, bare], main, bare, paper)
    always = {"credit_to_source_paper", "credit_to_source_calibrated", "credit_to_source_copies", "ece"}
    always |= {"foreign_to_unattributed", "no_source_auc", "composition_mae", "credit_to_source_halftone"}
    always |= {"composition_second_source_found", "credit_to_source_worst_kind", "all_foreign_to_unattributed"}
    assert {*always, wanted} <= set(section.figures)
    assert all(np.isfinite(list(section.figures.values())))
    assert all(len(row) == len(table.columns) for table in section.tables for row in table.rows)
    assert json.loads(json.dumps([table_to_json(table) for table in section.tables]))
    assert all(plot.svg.startswith("<svg") for plot in section.plots)
    assert [len(one.rows) for one in section.galleries] == [6, 6]


def test_a_kind_of_change_does_not_hide_the_figure_of_a_policy_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "RESAMPLES", 20)
    kinds = ("copy", "paper", "blur")
    observations = [present(kind=kind, strength=strength) for kind in kinds for strength in (1, 2, 3, 4)]
    observations += [foreign(kind=kind) for kind in ("photo", "noise", "digit", "stranger")]
    observations += [observation({IDS[0]: 0.5, IDS[1]: 0.5}, [100, 100, 200], "two")]
    main, paper = (apply_policy(by_policy(policy), observations) for policy in (GATED, SHARP))
    figures = known_source_section(observations, [main], main, main, paper).figures
    policy, kind = credit(paper, is_single).value, credit(main, is_kind("paper")).value
    assert policy != kind
    assert figures["credit_to_source_paper"] == pytest.approx(policy, abs=1e-4)
    assert figures["credit_to_source_kind_paper"] == pytest.approx(kind, abs=1e-4)
    assert "credit_to_source_kind_blur" not in figures


def test_a_further_source_is_found_with_half_of_its_share() -> None:
    shown = {IDS[0]: 0.5, IDS[1]: 0.3, IDS[2]: 0.2}
    paid = [
        observation(shown, [100_000, 100_000, 900_000], "grid-4"),
        observation(shown, [0, 900_000, 990_000], "grid-4"),
    ]
    shares = apply_policy(by_policy(SHARP), paid)
    assert measures.further_sources_found(shares).value == pytest.approx(0.25)


def test_a_folder_of_other_things_is_no_folder_of_foreign_images(tmp_path: Path) -> None:
    require_foreign(sample_folder("foreign"))
    with pytest.raises(InvalidInput, match="no folder made by"):
        require_foreign(tmp_path)
    (tmp_path / "manifest.csv").write_text("name\nimages/a.webp\n")
    with pytest.raises(InvalidInput, match="no folder made by"):
        require_foreign(tmp_path)
    fields = "file_name,kind,group,split,author,license,source,sha256\n"
    (tmp_path / "manifest.csv").write_text(fields)
    with pytest.raises(InvalidInput, match="no images for tests"):
        require_foreign(tmp_path)
    (tmp_path / "manifest.csv").write_text(f"{fields}a.webp,photo,a,test,A,CC0-1.0,here,00\n")
    (tmp_path / "a.webp").write_bytes(b"other")
    with pytest.raises(InvalidInput, match=r"a\.webp is not what"):
        require_foreign(tmp_path)


def test_a_folder_of_foreign_images_takes_the_place_of_the_shipped_ones(tmp_path: Path) -> None:
    rows = read_foreign(sample_folder("foreign"))
    chosen = next(row for row in rows if row.split == "test")
    (tmp_path / chosen.file_name).parent.mkdir()
    (tmp_path / chosen.file_name).write_bytes((sample_folder("foreign") / chosen.file_name).read_bytes())
    write_table(tmp_path / "manifest.csv", Foreign, [chosen])
    queries = make_queries(
        replace(SHORT_THIRD, kinds=(), copies=0, per_form=0, noise=1), WORKS, FOLDER, foreign=tmp_path
    )
    assert [query.kind for query in queries] == [chosen.kind, "noise"]


def test_the_list_of_foreign_images_keeps_splits_and_says_why_some_are_left_out() -> None:
    entries = read_list()
    shipped = {row.file_name: row for row in read_foreign(sample_folder("foreign"))}
    assert set(shipped) <= set(entries)
    assert all(entries[name].split == row.split and entries[name].sha256 == row.sha256 for name, row in shipped.items())
    kept = Counter(entry.split for entry in entries.values() if not entry.left_out)
    assert kept["test"] >= 1_000
    assert kept["fit"] >= 400
    copy = entries["images/stamp-town-houses-cartoon-tepee.webp"]
    assert copy.left_out == "the same drawing as the work buildings-homes-home11"


def test_reconstructions_are_counted_apart_and_blur_with_strength() -> None:
    assert not present(kind="reconstruction").single
    works = [decode_image((FOLDER / work.file_name).read_bytes()) for work in WORKS[:200]]
    model = train_autoencoder(works)
    target = np.asarray(square(works[3]), dtype=float)
    errors = [
        np.abs(np.asarray(model.reconstruct(works[3], strength), dtype=float) - target).mean() for strength in STRENGTHS
    ]
    assert errors == sorted(errors)
    assert errors[0] < np.abs(np.asarray(square(works[4]), dtype=float) - target).mean()


def test_quality_off_issues_a_whole_credit_and_moves_what_it_held_back() -> None:
    poor, fine = present(), observation({IDS[1]: 1.0}, [600_000, 50_000])
    poor = replace(poor, retrieval=replace(poor.retrieval, quality=0.2))
    off, capped, on = quality_effects(SHARP, [poor, fine])
    assert off.issued == 1
    assert on.issued == pytest.approx(0.55)
    assert (on.moved, on.largest) == (0, 0)
    assert capped.issued == pytest.approx((0.5 + 0.8) / 2)


def test_a_gallery_shows_the_source_and_who_was_credited() -> None:
    row = gallery(apply_policy(by_policy(SHARP), [present()]), best=True).rows[0]
    assert row[0].caption == "crop, strength 1; 0% unattributed"
    assert [tile.caption for tile in row[1:3]] == ["source: 100%", "100%"]
