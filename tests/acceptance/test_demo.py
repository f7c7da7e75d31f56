"""`gmvaluator demo`: what a newcomer runs first, twice."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dashboard.figures.formatting import amount_text
from gmvaluator.samples import sample_folder
from tests.support.processes import processes_of
from tests.support.programs import gmvaluator

WORKS = 60
"""Works indexed, of the 1,051 of the sample, all of which take minutes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "data"


def opened_and_interrupted(folder: Path) -> tuple[dict[str, str], str]:
    """`gmvaluator demo --open` a second time, with a browser that notes the address, ended by Ctrl-C: pages, output."""
    opened = folder.parent / "opened"
    browser = folder.parent / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    # Whoever runs the tests in the background has Ctrl-C ignored, and programs inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "gmvaluator", "demo"]
    command += ["--data", str(folder), "--works", str(WORKS), "--open", "--verbose"]
    # A group of its own: Ctrl-C in a terminal reaches the programs that the demo started too.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"BROWSER": f"{browser} %s"}, process_group=0
    ) as process:
        assert process.stdout is not None
        lines = list(itertools.takewhile(lambda line: "Ctrl-C ends" not in line, process.stdout))
        url = opened.read_text().strip()
        shown = re.findall(r'"(/pictures/generations/\d+)"', _page(url, "/overview"))
        pages = {path: _page(url, path) for path in ("/overview", "/operations/data", *shown)}
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(120) == 0
    return pages, "".join(lines) + rest


def _page(url: str, path: str) -> str:
    with urllib.request.urlopen(url + path, timeout=30) as answer:
        return str(answer.read().decode("latin-1"))


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

    pages, said = opened_and_interrupted(folder)
    assert "reconciles to the last micro-credit" in " ".join(said.split())
    assert "posted before" in said
    assert str(folder) in said.replace("\n", "")
    assert amount_text(first["issued_micros"]).split(".")[0] in pages["/overview"]
    assert f"/pictures/generations/{images}" in pages["/overview"]
    assert pages[f"/pictures/generations/{images}"][8:12] == "WEBP"
    assert json.loads(pages["/operations/data"])["known"]
    totals = gmvaluator("ledger", "totals", "--data", folder)
    assert {name: totals[name] for name in ("issued_micros", "owners_micros")} == {
        name: first[name] for name in ("issued_micros", "owners_micros")
    }
    assert not processes_of(folder)

    explained = json.dumps(
        gmvaluator("ledger", "explain", first["images"][0]["stages"][-1]["generation_id"], "--data", folder)
    )
    assert "calibrated@3" in explained
    assert gmvaluator("ledger", "replay", "--data", folder)["equal"] == images
