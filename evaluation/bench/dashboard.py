"""`gmvaluator bench dashboard`: what browsers cost that watch while credits are posted, and the first paint.

A ledger for the dashboard's benchmark: a million postings, quickly, and a writer that goes on at a given rate.

The past is inserted as rows, without hashes, which the dashboard does not read; the newest postings, which it shows
and checks, and all that follow are made by the real `build_posting` and the real writer.
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
from gmvaluator.accounts import owner_account
from gmvaluator.commands.processes import dashboard as running_dashboard
from gmvaluator.errors import Failure
from gmvaluator.ids import GenerationId, OwnerId
from gmvaluator.ledger.records import Entry, NewPosting
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.storage.schema import utc_text

OWNERS = 10_000
NEWEST = 200
BATCHES_PER_S = 10
_ZEROS = "0" * 64
_AGE = timedelta(days=90)


def owner(number: int) -> str:
    """Account of an owner; the same number is the same owner."""
    return owner_account(OwnerId(uuid.UUID(int=(number % OWNERS) * 7_919 + 1, version=4)))


def fill(folder: Path, count: int) -> None:
    """`count` postings of two entries each to the owners in turn, spread over 90 days; the newest are whole."""
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
    """Postings of 50 contributors each, dealt to 10,000 owners."""
    for number, posting in enumerate(made_postings(count)):
        entries = tuple(_dealt(line, entry, number) for line, entry in enumerate(posting.entries))
        dealt = replace(posting, generation_id=GenerationId(f"{prefix}-{number}"), entries=entries)
        dealt.encode()
        yield dealt


def _dealt(line: int, entry: Entry, number: int) -> Entry:
    if not entry.account.startswith("owner:"):
        return entry
    return entry._replace(account=owner(number * CONTRIBUTORS + line))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--per-second", default=400.0, help="Postings a second, 50 credits each.")
@click.option("--seconds", default=60.0, help="For how long.")
def write(folder: Path, per_second: float, seconds: float) -> None:
    """Make postings, wait for a line, and post them at a rate.

    Prints "made", "ready", and then each commit's newest sequence and when it was durable, by the machine's clock.
    """
    size = max(1, round(per_second / BATCHES_PER_S))
    batch = round(seconds * BATCHES_PER_S)
    ready = spread(batch * size, uuid.uuid4().hex)
    # Made beforehand: making them takes longer than writing them, and would be measured as the writer's lateness.
    batches = [[next(ready) for _ in range(size)] for _ in range(batch)]
    click.echo("made")
    if not sys.stdin.readline():
        return
    with open_ledger(folder, write=True) as ledger:
        click.echo("ready")
        began = time.monotonic()
        for number, one in enumerate(batches):
            time.sleep(max(0.0, began + number / BATCHES_PER_S - time.monotonic()))
            ledger.post(one)
            click.echo(f"{ledger.head().sequence} {time.monotonic()}")


if __name__ == "__main__":
    write()

STUCK = 20
WARM_S = 3.0
PATIENCE_S = 90.0
"""Of a stuck client: its buffers fill first; its 30 seconds begin when nothing more can be sent."""
STUCK_CREDITS_PER_S = 5_000
PAINTS = 3


def bench_dashboard(clients: int, credits_per_s: int, seconds: float, past: int) -> dict[str, Any]:
    """Figures of one run.

    core_share: processor seconds of the dashboard by those of the clock, while all clients watch. rss_mb: its most
    memory then. max_lag_s: from a commit's end until the last client had a message that includes it, at the most;
    p50_lag_s: likewise, the median. cut_s: how long a client that reads nothing is borne once nothing more reaches it,
    the longest of twenty; stuck_cost_mb: memory that each of these adds. first_paint_s: of the overview's content over
    all past postings, the median of three fresh browsers; chart_s: until the chart stands. asset_kb: what a browser
    loads of JavaScript and CSS, uncompressed. Raises Failure without Chromium, or if a part breaks.
    """
    chromium = _chromium()
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        # Both make their postings while the past is filled in, so that the whole takes minutes and no more.
        flow = stack.enter_context(Writer(folder, credits_per_s, 2 * WARM_S + seconds))
        trickle = stack.enter_context(Writer(folder, STUCK_CREDITS_PER_S, PATIENCE_S))
        fill(folder, past)
        flow.wait_until_made()
        trickle.wait_until_made()
        with running_dashboard("--data", str(folder)) as url:
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
    """A process that makes postings when it is started, and posts them once it is told to."""

    def __init__(self, folder: Path, credits_per_s: int, seconds: float) -> None:
        words = ["--per-second", str(credits_per_s / CONTRIBUTORS), "--seconds", str(seconds)]
        command = [sys.executable, "-u", "-m", "evaluation.bench.dashboard", str(folder), *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_made(self) -> None:
        """Raises Failure."""
        self._expect("made")

    def begin(self) -> None:
        """Returns once it posts. Raises Failure."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("ready")

    def commits(self) -> list[tuple[int, float]]:
        """(newest sequence, when it was durable) of each commit, once all are made."""
        lines = [line.split() for line in self._process.communicate()[0].splitlines()]
        return [(int(sequence), float(at)) for sequence, at in lines]

    def stop(self) -> None:
        """Post no more."""
        self._process.kill()
        self._process.wait()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            raise Failure("the benchmark's writer broke; its message is above")


def asset_bytes() -> int:
    """Bytes of JavaScript and CSS in the package."""
    static = files("dashboard") / "static"
    return sum(len(path.read_bytes()) for path in static.iterdir() if path.name.endswith((".js", ".css")))


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise Failure("the first paint is measured in Chromium, and there is none: apt-get install chromium")
    return found


def first_paints(url: str, chromium: str) -> dict[str, float]:
    """Medians of fresh browsers' times from asking for the overview to its first content, and to its chart."""
    from playwright.sync_api import sync_playwright

    wanted = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
    paints, charts = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(PAINTS):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(f"{url}/overview")
            page.wait_for_selector("#chart canvas")
            charts.append(page.evaluate("performance.now()") / 1_000)
            page.wait_for_function(f"{wanted}.length > 0")
            paints.append(page.evaluate(wanted)[0] / 1_000)
            page.context.close()
        browser.close()
    return {"first_paint_s": median(paints), "chart_s": median(charts)}


def _watched(
    folder: Path, url: str, process: psutil.Process, writer: Writer, clients: int, seconds: float
) -> dict[str, Any]:
    """All clients while postings flow; measured from when all of them watch."""
    with _watching(folder, url, clients, 0, seconds + 2 * WARM_S) as watching:
        _until_ready(watching)
        writer.begin()
        time.sleep(WARM_S)
        cpu, began, most = _cpu(process), time.monotonic(), 0
        while time.monotonic() - began < seconds:
            most = max(most, process.memory_info().rss)
            time.sleep(0.25)
        ended = time.monotonic()
        share = (_cpu(process) - cpu) / (ended - began)
        left = _ended(watching, "the clients")
    durable = writer.commits()
    seen = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    lags = _lags(durable, seen["arrivals"], began, ended, left)
    if not lags:
        raise Failure("no posting reached the clients: this run measures nothing")
    return {
        "core_share": share,
        "rss_mb": most / 1e6,
        "max_lag_s": max(lags),
        "p50_lag_s": median(lags),
        "messages_per_client_s": seen["messages"] / clients / (seconds + 2 * WARM_S),
        "posted_credits_per_s": _rate(durable) * CONTRIBUTORS,
    }


def _stuck(folder: Path, url: str, process: psutil.Process, writer: Writer) -> dict[str, Any]:
    """Clients that read nothing, beside one that does: what each costs, and when the last was cut."""
    writer.begin()
    before = most = process.memory_info().rss
    with _watching(folder, url, 1, STUCK, PATIENCE_S) as watching:
        while watching.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(0.25)
        _ended(watching, "the stuck clients")
    writer.stop()
    cut = json.loads((folder / "seen.json").read_text(encoding="utf-8"))["cut_s"]
    if None in cut:
        raise Failure(f"a client that reads nothing was still borne after {PATIENCE_S:.0f} s")
    return {"stuck_cost_mb": (most - before) / 1e6 / STUCK, "cut_s": max(cut), "stuck_clients": STUCK}


def _lags(
    durable: Sequence[tuple[int, float]],
    arrivals: Sequence[Sequence[tuple[int, float]]],
    after: float,
    upto: float,
    left: float,
) -> list[float]:
    """For each commit in the time measured, and each client: how long until it had a message that includes it.

    A client that never had one is as late as the time until it left.
    """
    wanted = [(sequence, at) for sequence, at in durable if after <= at <= upto]
    found = []
    for seen in arrivals:
        sequences = [sequence for sequence, _ in seen]
        for sequence, at in wanted:
            place = bisect.bisect_left(sequences, sequence)
            found.append((seen[place][1] if place < len(seen) else left) - at)
    return found


def _rate(durable: Sequence[tuple[int, float]]) -> float:
    (first, began), (last, ended) = durable[0], durable[-1]
    return (last - first) / (ended - began) if ended > began else 0.0


def _watching(folder: Path, url: str, clients: int, stuck: int, seconds: float) -> subprocess.Popen[str]:
    words = ["--clients", str(clients), "--stuck", str(stuck), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "evaluation.bench.dashboard_clients", url.removeprefix("http://"), *words]
    command += ["--out", str(folder / "seen.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program


def _until_ready(watching: subprocess.Popen[str]) -> None:
    assert watching.stdout is not None
    if watching.stdout.readline().strip() != "ready":
        raise Failure("the clients did not all get the state; their message is above")


def _ended(process: subprocess.Popen[str], what: str) -> float:
    """Wait for its end; when that was. Raises Failure if it was a bad one."""
    if process.wait() != 0:
        raise Failure(f"{what} ended with exit code {process.returncode}; their message is above")
    return time.monotonic()


def _process(folder: Path) -> psutil.Process:
    """The dashboard that this process started."""
    children = psutil.Process().children()
    return next(one for one in children if str(folder) in one.cmdline() and "dashboard" in one.cmdline())


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
