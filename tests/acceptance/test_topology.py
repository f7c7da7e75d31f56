"""The processes of a deployment without containers: an index engine that wants a key, PostgreSQL, two attributors
behind one client, a dashboard. Each is killed (kill -9) under load and started again: nothing is lost, nothing is there
twice, and the client goes on by itself.

In place of a Qdrant server stands the embedded engine at a known port: the same engine, wire and key.
"""

import itertools
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.client.requests import Retries
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import GmvaluatorError, MissingIndex
from gmvaluator.index.opening import open_store
from gmvaluator.ledger.store import open_ledger
from gmvaluator.samples import sample_folder
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from tests.support.supervised import Supervised, free_port

KEY = "a-key-of-the-test-alone"
MODEL_VERSION = "demo-1"
PROFILE = "stub:batch_ms=2,image_ms=2"
CALLERS = 4
MORE = 25
"""Answers waited for after a kill: the client has recovered, and not by one lucky call."""

LONG_S = 120.0
WORKS = 60


@dataclass
class Topology:
    """Every process, and the one client in front."""

    folder: Path
    database_url: str
    postgres: PostgresServer
    index_port: int
    attributor_ports: tuple[int, int]
    metrics_ports: tuple[int, int]
    dashboard_port: int
    running: dict[str, Supervised]

    @property
    def servers(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.attributor_ports)

    def overview(self) -> dict[str, object]:
        """What the dashboard shows; raises OSError while it is away."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.dashboard_port}/live/overview", timeout=10) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    state: dict[str, object] = json.loads(line.removeprefix(b"data: "))
                    return state
        raise OSError("the stream ended without a state")

    def posted_by(self, port: int) -> float:
        """Images that the attributor with metrics at `port` has posted since its start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith('gmvaluator_images_total{how="posted"')]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.fixture
def topology(tmp_path: Path, sample: Path) -> Iterator[Topology]:
    data, index_port, dashboard_port = tmp_path / "data", free_port(), free_port()
    ports, metrics = (free_port(), free_port()), (free_port(), free_port())
    index_url = f"http://127.0.0.1:{index_port}"
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(durable=True))
        url = postgres.new_database()
        environment = {"QDRANT_API_KEY": KEY, "QDRANT_URL": index_url, "DATABASE_URL": url}

        def start(name: str, *words: object, **more: str) -> Supervised:
            return stack.enter_context(Supervised(tmp_path, name, *words, environment={**environment, **more}))

        module = ("gmvaluator.index.engine", tmp_path / "qdrant", index_port)
        running = {"index": start("index", *module, QDRANT__SERVICE__API_KEY=KEY)}
        wait_for(lambda: index_points(index_url) == 0, "the index engine to answer")
        index_works(sample, data, environment)
        serve = ("gmvaluator", "serve", "--data", data, "--profile", PROFILE)
        for number, (port, scraped) in enumerate(zip(ports, metrics, strict=True)):
            name, where = f"attributor-{number}", ("--address", f"127.0.0.1:{port}")
            running[name] = start(name, *serve, *where, "--metrics", f"127.0.0.1:{scraped}")
        made = Topology(tmp_path, url, postgres, index_port, ports, metrics, dashboard_port, running)
        page = ("gmvaluator", "dashboard", "--data", data, "--address", f"127.0.0.1:{dashboard_port}")
        running["dashboard"] = start("dashboard", *page, "--server", made.servers)
        yield made


def index_points(url: str) -> int:
    """Points in the index; 0 while there is no collection. Raises GmvaluatorError while nobody answers."""
    with closing(open_store(url, api_key=KEY)) as store:
        try:
            return store.info().points
        except MissingIndex:
            return 0


def index_works(source: Path, data: Path, environment: dict[str, str]) -> None:
    """What the indexer job does: works to the index, owners and a generator to PostgreSQL."""
    lines = (source / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    data.mkdir()
    (data / "some.csv").write_text("".join(lines[: WORKS + 1]), encoding="utf-8")
    manifest = ("--manifest", data / "some.csv", "--data-set", "sample", "--no-group", "--profile", PROFILE)
    run_to_end(environment, "index", "add", source, *manifest, "--data", data)
    run_to_end(
        environment, "generators", "add", MODEL_VERSION, "--data-set", "sample", "--policy", "paper@1", "--data", data
    )


def run_to_end(environment: dict[str, str], *words: object) -> None:
    """`gmvaluator WORDS`, which has to succeed."""
    command = [sys.executable, "-m", "gmvaluator", *map(str, words)]
    done = subprocess.run(
        command, env={**own_environment(), **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until it is so; a part that cannot be reached is not so yet."""
    deadline = time.monotonic() + LONG_S
    while True:
        try:
            if condition():
                return
        except (GmvaluatorError, OSError) as error:
            last: object = error
        else:
            last = "it answered otherwise"
        assert time.monotonic() < deadline, f"waited {LONG_S:.0f} s for {what}: {last}"
        time.sleep(0.05)


@dataclass
class Callers:
    """Threads that send images through one client until told to stop, and what they were answered."""

    client: AttributorClient
    image: bytes
    answers: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def send(self) -> None:
        while not self._stopping.is_set():
            name = f"topology:{next(self._numbers)}"
            try:
                *_, final = self.client.attribute(self.image, name, MODEL_VERSION)
            except GmvaluatorError as error:
                self.failures.append(f"{name}: {error}")
                return
            self.answers[name] = (final.sequence, final.issued_micros)

    def __enter__(self) -> "Callers":
        self._threads = [threading.Thread(target=self.send, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(LONG_S)

    def wait_for_more(self) -> None:
        wanted = len(self.answers) + MORE
        wait_for(lambda: len(self.answers) >= wanted or bool(self.failures), f"{MORE} more answers")
        assert self.failures == []


@pytest.mark.timeout(400)
def test_every_part_is_killed_under_load_and_nothing_is_lost_or_doubled(topology: Topology) -> None:
    image = next(sample_folder("generated").glob("*.webp")).read_bytes()
    patient = Retries(attempts=10_000, longest_pause_s=1.0)
    with AttributorClient(topology.servers, deadline_s=LONG_S, retries=patient) as client:
        for server in topology.servers.split(","):
            with AttributorClient(server) as one:
                one.wait_until_serving(LONG_S)
        with Callers(client, image) as callers:
            callers.wait_for_more()
            assert all(topology.posted_by(port) > 0 for port in topology.metrics_ports), "one attributor got nothing"
            for name in ("attributor-0", "attributor-1", "index", "dashboard"):
                kill_and_recover(topology, name)
                callers.wait_for_more()
            topology.postgres.kill()
            time.sleep(1)
            topology.postgres.start()
            callers.wait_for_more()
            wait_for(lambda: all(topology.posted_by(port) > 0 for port in topology.metrics_ports), "both to post again")
    check_ledger(topology, callers)
    check_dashboard(topology)
    assert index_points(f"http://127.0.0.1:{topology.index_port}") == WORKS


def kill_and_recover(topology: Topology, name: str) -> None:
    """kill -9 of a process, until it has been started again and answers."""
    part = topology.running[name]
    before = part.starts
    part.kill()
    wait_for(lambda: part.starts > before, f"another start of {name}")
    if name == "dashboard":
        wait_for(lambda: bool(topology.overview()["reconciles"]), "the dashboard to answer")
    elif name == "index":
        wait_for(lambda: index_points(f"http://127.0.0.1:{topology.index_port}") == WORKS, "the index to answer")
    else:
        port = topology.metrics_ports[int(name[-1])]
        wait_for(lambda: topology.posted_by(port) > 0, f"{name} to post again")


def check_ledger(topology: Topology, callers: Callers) -> None:
    """What was answered stands in the ledger as answered, once; sums and chain are right."""
    with open_ledger(DataLocation(topology.folder / "data", topology.database_url)) as ledger:
        stored = [(one.header.generation_id, one.sequence, one.header.issued_micros) for one in ledger.every_posting()]
        totals, verification = ledger.totals(), ledger.verify()
    assert [sequence for _, sequence, _ in stored] == list(range(1, len(stored) + 1))
    assert len({name for name, _, _ in stored}) == len(stored), "a generation was posted twice"
    assert {name: (sequence, micros) for name, sequence, micros in stored} == callers.answers
    assert totals.issued_micros == sum(micros for _, micros in callers.answers.values())
    assert totals.reconciles
    assert verification.ok, verification.text()


def check_dashboard(topology: Topology) -> None:
    """The dashboard shows the ledger's last posting."""
    with open_ledger(DataLocation(topology.folder / "data", topology.database_url)) as ledger:
        head = ledger.totals().head.sequence
    wait_for(lambda: topology.overview()["sequence"] == head, "the dashboard to show the last posting")
    assert topology.overview()["reconciles"]
