"""`gmvaluator bench dashboard`: load and lag of browsers that watch while credits are posted, and the first paint.

The ledger begins with a million postings that are inserted as rows without hashes, which the dashboard does not read.
The newest postings, which it shows and checks, and all later ones are made by `build_posting` and the ledger's
writer. `python -m evaluation.bench.dashboard FOLDER` is the process that posts at a given rate.
"""

from __future__ import annotations

import bisect
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import rich_click as click

from evaluation.bench.ledger_baseline import CONTRIBUTORS
from evaluation.bench.ledger_baseline import postings as made_postings
from gmvaluator.accounts import OWNER_PREFIX, owner_account
from gmvaluator.commands.processes import dashboard as running_dashboard
from gmvaluator.errors import Failure
from gmvaluator.ids import GenerationId, OwnerId
from gmvaluator.ledger.records import Entry, NewPosting
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.storage.schema import utc_text

OWNERS = 10_000
NEWEST = 200
"""Postings that are made by the ledger's writer before the benchmark."""

BATCHES_PER_S = 10
_ZEROS = "0" * 64
_AGE = timedelta(days=90)
"""Age of the oldest posting."""

STUCK = 20
"""Clients that never read."""

WARM_S = 3.0
"""Seconds before the measurement, and after it."""

PATIENCE_S = 90.0
"""Seconds to wait until a stuck client is cut: first its buffers fill, then its timeout of 30 s begins."""
STUCK_CREDITS_PER_S = 5_000
PAINTS = 3
"""Fresh browsers that load the overview."""


def bench_dashboard(clients: int, credits_per_s: int, seconds: float, past: int) -> dict[str, Any]:
    """Run the benchmark and return its figures.

    core_share: processor time of the dashboard divided by elapsed time, while all clients watch. rss_mb: its peak
    memory during that time. max_lag_s, p50_lag_s: maximum and median of the time from a commit until a client
    received a message that includes it. cut_s: time until a client that never reads is cut, after its last data; the
    longest of twenty. stuck_cost_mb: memory that each of these adds. first_paint_s: first contentful paint of the
    overview over all past postings, median of three fresh browsers. chart_s: time until the chart is drawn. asset_kb:
    uncompressed JavaScript and CSS that a browser loads. Raises Failure without Chromium, or if a process fails.
    """
    chromium = _chromium()
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        # Both writers prepare their postings while the past is filled in, which saves minutes.
        flow = stack.enter_context(Writer(folder, credits_per_s, 2 * WARM_S + seconds))
        trickle = stack.enter_context(Writer(folder, STUCK_CREDITS_PER_S, PATIENCE_S))
        fill(folder, past)
        flow.wait_until_prepared()
        trickle.wait_until_prepared()
        with running_dashboard("--data", str(folder), "--connections-per-address", "2000") as url:
            process = _process(folder)
            figures = first_paints(url, chromium)
            figures |= _watched(folder, url, process, flow, clients, seconds)
            figures |= _stuck(folder, url, process, trickle)
    return {
        **figures,
        "asset_kb": asset_bytes() / 1_000,
        "clients": clients,
        "credits_per_s": credits_per_s,
        "owners": OWNERS,
        "past_postings": past,
        "seconds": seconds,
    }


class Writer:
    """A process that prepares postings when it starts, and posts them after `begin`. It is killed with the context."""

    def __init__(self, folder: Path, credits_per_s: int, seconds: float) -> None:
        options = ["--per-second", str(credits_per_s / CONTRIBUTORS), "--seconds", str(seconds)]
        command = [sys.executable, "-u", "-m", "evaluation.bench.dashboard", str(folder), *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_prepared(self) -> None:
        """Wait until the postings are prepared. Raises Failure."""
        self._expect("made")

    def begin(self) -> None:
        """Start posting; return once the process posts. Raises Failure."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("ready")

    def commits(self) -> list[tuple[int, float]]:
        """Wait for the end; return the newest sequence number of each commit and the time at which it was durable."""
        lines = [line.split() for line in self._process.communicate()[0].splitlines()]
        return [(int(sequence), float(at)) for sequence, at in lines]

    def stop(self) -> None:
        """Stop posting."""
        self._process.kill()
        self._process.wait()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            raise Failure("the benchmark's writer broke; its message is above")


def asset_bytes() -> int:
    """Return the bytes of JavaScript and CSS in the dashboard's package."""
    static = files("dashboard") / "static"
    return sum(len(path.read_bytes()) for path in static.iterdir() if path.name.endswith((".js", ".css")))


def _chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise Failure("the first paint is measured in Chromium, and there is none: apt-get install chromium")
    return path


def first_paints(url: str, chromium: str) -> dict[str, float]:
    """Return the median times from requesting the overview to its first content and to its chart, in fresh browsers."""
    from playwright.sync_api import sync_playwright

    paint_times = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
    paints, charts = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(PAINTS):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(f"{url}/overview")
            page.wait_for_selector("#chart canvas")
            charts.append(page.evaluate("performance.now()") / 1_000)
            page.wait_for_function(f"{paint_times}.length > 0")
            paints.append(page.evaluate(paint_times)[0] / 1_000)
            page.context.close()
        browser.close()
    return {"first_paint_s": median(paints), "chart_s": median(charts)}


def _watched(
    folder: Path, url: str, process: psutil.Process, writer: Writer, clients: int, seconds: float
) -> dict[str, Any]:
    """Measure all clients while credits are posted, once all of them watch."""
    with _watching(folder, url, clients, 0, seconds + 2 * WARM_S) as watching:
        _until_ready(watching)
        writer.begin()
        time.sleep(WARM_S)
        cpu, began, peak_rss = _cpu(process), time.monotonic(), 0
        while time.monotonic() - began < seconds:
            peak_rss = max(peak_rss, process.memory_info().rss)
            time.sleep(0.25)
        ended = time.monotonic()
        share = (_cpu(process) - cpu) / (ended - began)
        left = _ended(watching, "the clients")
    commits = writer.commits()
    received = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    lags = _lags(commits, received["arrivals"], began, ended, left)
    if not lags:
        raise Failure("no posting reached the clients: this run measures nothing")
    return {
        "core_share": share,
        "rss_mb": peak_rss / 1e6,
        "max_lag_s": max(lags),
        "p50_lag_s": median(lags),
        "messages_per_client_s": received["messages"] / clients / (seconds + 2 * WARM_S),
        "posted_credits_per_s": _rate(commits) * CONTRIBUTORS,
    }


def _stuck(folder: Path, url: str, process: psutil.Process, writer: Writer) -> dict[str, Any]:
    """Measure what clients that never read cost, and when they are cut; one other client reads."""
    writer.begin()
    before = peak_rss = process.memory_info().rss
    with _watching(folder, url, 1, STUCK, PATIENCE_S) as watching:
        while watching.poll() is None:
            peak_rss = max(peak_rss, process.memory_info().rss)
            time.sleep(0.25)
        _ended(watching, "the stuck clients")
    writer.stop()
    cut_s = json.loads((folder / "seen.json").read_text(encoding="utf-8"))["cut_s"]
    if None in cut_s:
        raise Failure(f"a client that reads nothing was still connected after {PATIENCE_S:.0f} s")
    return {"stuck_cost_mb": (peak_rss - before) / 1e6 / STUCK, "cut_s": max(cut_s), "stuck_clients": STUCK}


def _lags(
    commits: Sequence[tuple[int, float]],
    arrivals: Sequence[Sequence[tuple[int, float]]],
    after: float,
    upto: float,
    left: float,
) -> list[float]:
    """Return, for each commit between `after` and `upto` and each client, the seconds until it had a message with it.

    A commit that a client never received counts as received when it left, at `left`.
    """
    measured = [(sequence, at) for sequence, at in commits if after <= at <= upto]
    lags = []
    for received in arrivals:
        sequences = [sequence for sequence, _ in received]
        for sequence, at in measured:
            index = bisect.bisect_left(sequences, sequence)
            lags.append((received[index][1] if index < len(received) else left) - at)
    return lags


def _rate(commits: Sequence[tuple[int, float]]) -> float:
    """Return the postings per second over all commits."""
    (first, began), (last, ended) = commits[0], commits[-1]
    return (last - first) / (ended - began) if ended > began else 0.0


def _watching(folder: Path, url: str, clients: int, stuck: int, seconds: float) -> subprocess.Popen[str]:
    options = ["--clients", str(clients), "--stuck", str(stuck), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "evaluation.bench.dashboard_clients", url.removeprefix("http://"), *options]
    command += ["--out", str(folder / "seen.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program


def _until_ready(watching: subprocess.Popen[str]) -> None:
    assert watching.stdout is not None
    if watching.stdout.readline().strip() != "ready":
        raise Failure("the clients did not all get the state; their message is above")


def _ended(process: subprocess.Popen[str], name: str) -> float:
    """Wait for the end of a process; return its time. Raises Failure if its exit code is not 0."""
    if process.wait() != 0:
        raise Failure(f"{name} ended with exit code {process.returncode}; their message is above")
    return time.monotonic()


def _process(folder: Path) -> psutil.Process:
    """Return the dashboard that this process started."""
    children = psutil.Process().children()
    return next(child for child in children if str(folder) in child.cmdline() and "dashboard" in child.cmdline())


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def owner(number: int) -> str:
    """Return the account of owner `number`, modulo `OWNERS`."""
    return owner_account(OwnerId(uuid.UUID(int=(number % OWNERS) * 7_919 + 1, version=4)))


def fill(folder: Path, count: int) -> None:
    """Fill a ledger with `count` postings of two entries each, to the owners in turn, spread over 90 days.

    `NEWEST` postings with all their rows and hashes follow.
    """
    open_ledger(folder, write=True).close()
    connection = sqlite3.connect(ledger_file(folder))
    connection.execute("PRAGMA synchronous=OFF")
    began = datetime.now(UTC) - _AGE
    body = zlib.compress(next(made_postings(1)).evidence_json)
    step = _AGE / max(count, 1)
    headers = ((number, "attribution", "bench", f"old-{number}", _ZEROS, "bench-1", "paper@1", _ZEROS,
                utc_text(began + step * number), utc_text(began + step * number), 1_000, _ZEROS, _ZEROS, _ZEROS, _ZEROS)
               for number in range(1, count + 1))  # fmt: skip
    connection.executemany("INSERT INTO postings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", headers)
    lines = (line for number in range(1, count + 1)
             for line in ((number, 0, "issuance", None, -1_000), (number, 1, owner(number), None, 1_000)))  # fmt: skip
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", lines)
    connection.executemany("INSERT INTO evidence VALUES (?, ?)", ((number, body) for number in (count,)))
    connection.execute("INSERT INTO balances SELECT account, sum(amount_micros) FROM entries GROUP BY account")
    connection.execute("UPDATE head SET sequence = ?, hash = ?, issued_micros = ?", (count, _ZEROS, 1_000 * count))
    connection.commit()
    connection.close()
    with open_ledger(folder, write=True) as ledger:
        ledger.post(list(spread(NEWEST, "newest")))


def spread(count: int, prefix: str) -> Iterator[NewPosting]:
    """Yield postings of 50 contributors each, distributed over `OWNERS` owners."""
    for number, posting in enumerate(made_postings(count)):
        entries = tuple(_reassigned(line, entry, number) for line, entry in enumerate(posting.entries))
        spread_posting = replace(posting, generation_id=GenerationId(f"{prefix}-{number}"), entries=entries)
        spread_posting.encode()
        yield spread_posting


def _reassigned(line: int, entry: Entry, number: int) -> Entry:
    if not entry.account.startswith(OWNER_PREFIX):
        return entry
    return entry._replace(account=owner(number * CONTRIBUTORS + line))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--per-second", default=400.0, help="Postings per second, of 50 credits each.")
@click.option("--seconds", default=60.0, help="For how long.")
def write(folder: Path, per_second: float, seconds: float) -> None:
    """Make postings, wait for a line, and post them at a rate.

    Prints "made", "ready", and then each commit's newest sequence and when it was durable, by the machine's clock.
    """
    size = max(1, round(per_second / BATCHES_PER_S))
    batch = round(seconds * BATCHES_PER_S)
    ready = spread(batch * size, uuid.uuid4().hex)
    # Making postings takes longer than writing them; done in the loop, it would count as lag.
    batches = [[next(ready) for _ in range(size)] for _ in range(batch)]
    click.echo("made")
    if not sys.stdin.readline():
        return
    with open_ledger(folder, write=True) as ledger:
        click.echo("ready")
        began = time.monotonic()
        for number, postings_batch in enumerate(batches):
            time.sleep(max(0.0, began + number / BATCHES_PER_S - time.monotonic()))
            ledger.post(postings_batch)
            click.echo(f"{ledger.head().sequence} {time.monotonic()}")


if __name__ == "__main__":
    write()
