"""Starting, stopping and being refused: what an operator meets."""

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.client.sync import AttributorClient
from gmvaluator.commands.processes import run_command
from gmvaluator.errors import PreconditionFailed, Unavailable
from gmvaluator.index.opening import open_store
from gmvaluator.ports import Generator
from gmvaluator.testing.models import FAKE_IDENTITY
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.processes import processes_of
from tests.support.programs import Attributor, gmvaluator, run


def errors(text: str) -> list[str]:
    """The lines of stderr that are not the steps that `serve` logs while it starts."""
    return [line for line in text.strip().splitlines() if '"event": "starting"' not in line]


def test_sigterm_drains_and_what_was_accepted_is_posted(data: Path, images: list[bytes]) -> None:
    answered: list[str] = []
    refused: list[str] = []

    def caller(client: AttributorClient, name: str) -> None:
        for number in range(1000):
            try:
                *_, final = client.attribute(images[number % len(images)], f"{name}:{number}", MODEL_VERSION)
            except Unavailable:
                refused.append(f"{name}:{number}")
                return
            answered.append(final.generation_id)

    with Attributor(data) as attributor, AttributorClient(attributor.address) as client:
        threads = [threading.Thread(target=caller, args=(client, f"t{number}")) for number in range(8)]
        for thread in threads:
            thread.start()
        while len(answered) < 10:
            time.sleep(0.01)
        assert attributor.stop() == 0
        for thread in threads:
            thread.join()
    totals = gmvaluator("ledger", "totals", "--data", data)
    assert totals["postings"] == len(answered)
    assert totals["reconciles"]
    assert len(refused) == 8
    assert not processes_of(data)


def test_a_second_attributor_on_the_same_ledger_is_refused_and_told_who_holds_it(data: Path) -> None:
    with Attributor(data) as attributor:
        done = run("serve", "--data", data, "--address", "127.0.0.1:0")
        assert done.returncode == 2
        assert str(attributor.process.pid) in done.stderr
        assert len(errors(done.stderr)) == 1


def test_a_port_in_use_is_a_clear_refusal(indexed: Path, tmp_path: Path) -> None:
    first, second = (Path(shutil.copytree(indexed, tmp_path / name)) for name in ("one", "two"))
    with Attributor(first) as attributor:
        done = run("serve", "--data", second, "--address", attributor.address)
    assert done.returncode == 2
    assert attributor.address in done.stderr


def make_foreign_collection(data: Path) -> None:
    """A collection that another profile built, and a generator bound to it."""
    store = open_store(data / "index", "foreign")
    store.create(FAKE_IDENTITY)
    store.close()
    with open_catalogue(data, write=True) as catalogue:
        catalogue.add_generator(Generator("foreign-1", "foreign", ("sample",), "paper@1"))


def test_an_index_of_another_profile_is_refused_at_the_start(data: Path) -> None:
    make_foreign_collection(data)
    done = run("serve", "--data", data, "--address", "127.0.0.1:0")
    assert done.returncode == 2
    assert "'fake'" in done.stderr
    assert "'lite'" in done.stderr
    assert "Traceback" not in done.stderr
    refused = run("index", "add", data / "thumbnails", "--data", data, "--collection", "foreign")
    assert refused.returncode == 2
    assert "'fake'" in refused.stderr


def test_an_index_of_another_profile_fails_the_call_of_its_generator_alone(data: Path, images: list[bytes]) -> None:
    with Attributor(data) as attributor, AttributorClient(attributor.address) as client:
        make_foreign_collection(data)
        with pytest.raises(PreconditionFailed, match="'fake'"):
            list(client.attribute(images[0], "foreign:1", "foreign-1"))
        assert len(list(client.attribute(images[0], "own:1", MODEL_VERSION))) == 3


def test_the_attributor_outlives_its_index_engine(data: Path, images: list[bytes]) -> None:
    with Attributor(data) as attributor, AttributorClient(attributor.address) as client:
        list(client.attribute(images[0], "before", MODEL_VERSION))
        engines = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "gmvaluator.index.engine" in " ".join(process.info["cmdline"] or ())
            and str(data) in " ".join(process.info["cmdline"] or ())
        ]
        assert len(engines) == 1
        engines[0].kill()
        assert len(list(client.attribute(images[1], "after", MODEL_VERSION))) == 3


FEW = 72
"""Works that the tests index which end an indexer early: what counts is that some of them come after its end."""


@pytest.fixture(scope="module")
def few(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first works of the sample."""
    folder = tmp_path_factory.mktemp("few") / "sample"
    (folder / "images").mkdir(parents=True)
    lines = (sample / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)[: FEW + 1]
    (folder / "manifest.csv").write_text("".join(lines), encoding="utf-8")
    for row in csv.DictReader(lines):
        shutil.copyfile(sample / row["file_name"], folder / row["file_name"])
    return folder


def begin_to_index(sample: Path, data: Path) -> subprocess.Popen[str]:
    """`index add`, caught after its first batch was embedded and before its last was."""
    command = [sys.executable, "-m", "gmvaluator", "index", "add", str(sample), "--data", str(data), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own_environment()
    )
    before = len(list(data.glob("thumbnails/*/*")))
    while len(list(data.glob("thumbnails/*/*"))) == before and process.poll() is None:
        time.sleep(0.01)
    return process


def test_an_indexer_killed_again_and_again_is_taken_up_by_running_it_again(few: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    chance, cut = random.Random(4), 0
    for _ in range(4):
        with begin_to_index(few, data) as process:
            time.sleep(chance.uniform(0, 0.3))
            cut += process.poll() is None
            process.kill()
            process.communicate()
    assert cut >= 2
    report = gmvaluator("index", "add", few, "--data", data)
    assert report["reconciles"]
    assert report["collection"]["points"] == report["collection"]["indexed_points"] == FEW
    with open_catalogue(data) as catalogue:
        assert catalogue.counts().works == FEW


def test_an_indexer_that_is_interrupted_says_how_to_go_on_and_its_index_is_not_served(
    few: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with begin_to_index(few, data) as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert json.loads(output)["stopped"]
    assert "run the same command again" in errors
    verified = run("index", "verify", "--k", "5", "--data", data, "--json")
    assert verified.returncode == 1
    assert json.loads(verified.stdout)["figures"]["quantised_share"] < 1
    gmvaluator("generators", "add", MODEL_VERSION, "--data-set", few.name, "--policy", "paper@1", "--data", data)
    refused = run("serve", "--data", data, "--address", "127.0.0.1:0")
    assert refused.returncode == 2
    assert "index add" in refused.stderr
    assert gmvaluator("index", "add", few, "--data", data)["collection"]["indexed_points"] == FEW


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.0.1:99999", ":50051", "http://x:1"])
def test_an_address_that_grpc_would_misread_is_refused(indexed: Path, address: str) -> None:
    done = run("serve", "--data", indexed, "--address", address)
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr


def test_a_demo_that_is_terminated_stops_what_it_started(data: Path) -> None:
    command = [sys.executable, "-m", "gmvaluator", "demo", "--data", str(data), "--works", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_environment()) as process:
        assert process.stdout is not None
        while "Attributing" not in (line := process.stdout.readline()):
            assert line, "the demo ended before it attributed an image"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert not processes_of(data)


def test_our_own_runs_never_reach_an_operators_ledger_or_index(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GMV_PROFILE", "none")
    assert run_command("generators", "list", "--data", str(data))


def test_indexing_twice_adds_nothing(data: Path, sample: Path) -> None:
    report = gmvaluator("index", "add", sample, "--data-set", "sample", "--data", data)
    assert (report["read"], report["points"], report["duplicates"]) == (150, 0, 150)


def test_the_index_is_verified_from_the_command_line(data: Path) -> None:
    figures = gmvaluator("index", "verify", "--data", data)["figures"]
    assert figures["quantised_share"] == 1
    assert figures["recall_at_50"] >= 0.98
    assert figures["recall_at_50"] >= figures["recall_at_50_unrescored"]
