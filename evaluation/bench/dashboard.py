"""`gmvaluator bench dashboard`: what browsers cost that watch while credits are posted, and the first paint."""

from __future__ import annotations

import bisect
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil

from evaluation.bench.dashboard_ledger import OWNERS, fill
from evaluation.bench.ledger_postings import CONTRIBUTORS
from gmvaluator.errors import Failure
from gmvaluator.processes import dashboard as running_dashboard

STUCK = 4
WARM_S = 5.0
CUT_WITHIN_S = 30.0
FILLING_S = 60.0
"""A stuck client's buffers fill first; its 30 seconds begin when the server cannot send."""
PAINTS = 3


def bench_dashboard(clients: int, credits_per_s: int, seconds: float, past: int) -> dict[str, Any]:
    """Figures of one run.

    core_share: processor seconds of the dashboard by those of the clock, while all clients watch. rss_mb: its most
    memory then. max_lag_s: from a commit's end until the last client had a message that includes it, at the most.
    stuck_cost_mb: memory that a client which stops reading adds; cut_s: when the last one was cut. first_paint_s: of
    the overview over 1,000,000 postings and 10,000 owners, the median of three fresh browsers; asset_kb: what a
    browser loads of JavaScript and CSS, uncompressed.
    """
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-") as name:
        folder = Path(name)
        fill(folder, past)
        with running_dashboard("--data", str(folder)) as url:
            process = _process(folder)
            paints = first_paints(url)
            figures = _watched(folder, url, process, clients, credits_per_s, seconds)
            figures |= _stuck(folder, url, process, credits_per_s)
    return {
        **figures,
        "first_paint_s": sorted(paints)[len(paints) // 2] if paints else None,
        "asset_kb": asset_bytes() / 1_000,
        "clients": clients,
        "credits_per_s": credits_per_s,
        "owners": OWNERS,
        "past_postings": past,
        "seconds": seconds,
    }


def asset_bytes() -> int:
    """Bytes of JavaScript and CSS in the package."""
    static = files("dashboard") / "static"
    return sum(len(path.read_bytes()) for path in static.iterdir() if path.name.endswith((".js", ".css")))


def first_paints(url: str) -> list[float]:
    """Seconds until a fresh browser painted the overview's content; none where there is no Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return []
    from playwright.sync_api import sync_playwright

    wanted = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(PAINTS):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.goto(f"{url}/overview")
            page.wait_for_function(f"{wanted}.length > 0")
            found.append(page.evaluate(wanted)[0] / 1_000)
            page.context.close()
        browser.close()
    return found


def _watched(
    folder: Path, url: str, process: psutil.Process, clients: int, credits_per_s: int, seconds: float
) -> dict[str, Any]:
    """All clients while postings flow; measured between the warm-up and the end."""
    with (
        _writing(folder, credits_per_s, WARM_S + seconds) as writer,
        _watching(folder, url, clients, 0, seconds + WARM_S) as watching,
    ):
        time.sleep(WARM_S)
        cpu, began, most = _cpu(process), time.monotonic(), 0
        while watching.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(0.25)
            if time.monotonic() - began > seconds - 1:
                break
        share = (_cpu(process) - cpu) / (time.monotonic() - began)
        _ended(watching, "the clients")
        commits = [line.split() for line in (writer.communicate()[0]).splitlines()]
    seen = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    durable = [(int(sequence), float(at)) for sequence, at in commits if sequence != "ready"]
    lags = _lags(durable, seen["arrivals"], began, began + seconds - 2)
    if not lags:
        raise Failure("no posting reached the clients: this run measures nothing")
    return {
        "core_share": share,
        "rss_mb": most / 1e6,
        "max_lag_s": max(lags),
        "messages_per_client_s": seen["messages"] / clients / (seconds + WARM_S),
        "posted_credits_per_s": _rate(durable) * CONTRIBUTORS,
    }


def _stuck(folder: Path, url: str, process: psutil.Process, credits_per_s: int) -> dict[str, Any]:
    """Clients that stop reading: what each costs, and when the last was cut."""
    before = process.memory_info().rss
    most = before
    with (
        _writing(folder, credits_per_s // 4, CUT_WITHIN_S + FILLING_S),
        _watching(folder, url, 1, STUCK, CUT_WITHIN_S + FILLING_S) as watching,
    ):
        while watching.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(0.5)
        _ended(watching, "the stuck clients")
    cut = json.loads((folder / "seen.json").read_text(encoding="utf-8"))["cut_s"]
    return {
        "stuck_cost_mb": (most - before) / 1e6 / STUCK,
        "cut_s": None if None in cut else max(cut),
    }


def _lags(
    durable: Sequence[tuple[int, float]], arrivals: Sequence[Sequence[tuple[int, float]]], after: float, upto: float
) -> list[float]:
    """For each commit in the time measured, and each client: how long until it had a message that includes it."""
    found = []
    for seen in arrivals:
        sequences = [sequence for sequence, _ in seen]
        for sequence, at in durable:
            if after <= at <= upto:
                place = bisect.bisect_left(sequences, sequence)
                # A client that never got there is as late as the time it had left.
                found.append((seen[place][1] if place < len(seen) else upto + 2) - at)
    return found


def _rate(durable: Sequence[tuple[int, float]]) -> float:
    (first, began), (last, ended) = durable[0], durable[-1]
    return (last - first) / (ended - began) if ended > began else 0.0


def _writing(folder: Path, credits_per_s: int, seconds: float) -> subprocess.Popen[str]:
    """A writer that has made its postings and begun."""
    words = ["--per-second", str(credits_per_s / CONTRIBUTORS), "--seconds", str(seconds)]
    command = [sys.executable, "-u", "-m", "evaluation.bench.dashboard_ledger", str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    assert process.stdout is not None
    if not process.stdout.readline().startswith("ready"):
        raise Failure("the benchmark's writer did not start; its message is above")
    return process


def _watching(folder: Path, url: str, clients: int, stuck: int, seconds: float) -> subprocess.Popen[bytes]:
    words = ["--clients", str(clients), "--stuck", str(stuck), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "evaluation.bench.dashboard_clients", url.removeprefix("http://"), *words]
    return subprocess.Popen([*command, "--out", str(folder / "seen.json")])  # noqa: S603 - our own program


def _ended(process: subprocess.Popen[bytes], what: str) -> None:
    if process.wait() != 0:
        raise Failure(f"{what} ended with exit code {process.returncode}; their message is above")


def _process(folder: Path) -> psutil.Process:
    """The dashboard that this process started."""
    children = psutil.Process().children()
    return next(one for one in children if str(folder) in one.cmdline() and "dashboard" in one.cmdline())


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
