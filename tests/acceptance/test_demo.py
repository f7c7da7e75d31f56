"""`gmvaluator demo`: what a newcomer runs first, twice."""

import json
from pathlib import Path

import pytest

from gmvaluator.samples import sample_folder
from tests.acceptance.processes import processes_of
from tests.acceptance.programs import gmvaluator, run

WORKS = 300
"""Of the sample's 1,051: the whole of it takes minutes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "data"


@pytest.mark.timeout(900)
def test_the_demo_does_the_whole_job_and_doing_it_again_changes_no_credit(folder: Path) -> None:
    first = gmvaluator("demo", "--data", folder, "--works", WORKS)
    images = len(list(sample_folder("generated").glob("*.webp")))
    assert images >= 40
    assert len(first["images"]) == images
    assert (first["index"]["read"], first["index"]["points"], first["index"]["rejects"]) == (WORKS, WORKS, 0)
    assert first["index"]["collection"]["indexed_points"] == WORKS
    assert first["reconciles"]
    assert sum(first["paper_micros"].values()) == first["issued_micros"]
    assert first["paper_micros"]["unattributed"] == 0 < first["unattributed_micros"]
    assert first["issued_micros"] == first["owners_micros"] + first["unattributed_micros"] > 0
    assert sum(owner["credit_micros"] for owner in first["owners"]) == first["owners_micros"]
    assert {owner["display_name"] for owner in first["owners"]} >= {"Gerald G.", "Benji Park"}
    for image in first["images"]:
        assert [stage["stage"] for stage in image["stages"]] == ["STAGE_RECALLED", "STAGE_RERANKED", "STAGE_FINAL"]
    assert not processes_of(folder)

    done = run("demo", "--data", folder, "--works", WORKS)
    assert done.returncode == 0, done.stderr
    assert "reconciles to the last micro-credit" in " ".join(done.stdout.split())
    assert "posted before" in done.stdout
    assert str(folder) in done.stdout.replace("\n", "")
    totals = gmvaluator("ledger", "totals", "--data", folder)
    assert {name: totals[name] for name in ("issued_micros", "owners_micros")} == {
        name: first[name] for name in ("issued_micros", "owners_micros")
    }
    assert not processes_of(folder)

    explained = json.dumps(
        gmvaluator("ledger", "explain", first["images"][0]["stages"][-1]["generation_id"], "--data", folder)
    )
    assert "calibrated@2" in explained
    assert gmvaluator("ledger", "replay", "--data", folder)["equal"] == images
