"""`make soak`: very many requests, good, bad and cancelled. What grows is a leak.

python -m evaluation.bench.serving.soak --requests 2000
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click

from evaluation.bench.serving.load import Call, Load, image_files
from evaluation.bench.serving.sections import process_of, resident_bytes
from evaluation.bench.serving.setup import MODEL_VERSION, Running, jpegs, serving, stub_data
from gmvaluator.report import write_report

PROFILE = "stub"
WINDOW = 16
"""Requests under way at once."""

SETTLED = 0.1
"""Share of the requests after which memory may no longer grow: 20,000 of 200,000."""

LOOKS = 100
SMALLEST_STEP = 50


CANCELLED, BAD = 0.20, 0.02


@dataclass(slots=True)
class Look:
    """The attributor at one moment; memory and file descriptors of it and of the processes it started."""

    requests: int
    rss_mb: float
    descriptors: int
    tasks: int


@dataclass(slots=True)
class Soak:
    """One run's requests and what was seen of the attributor."""

    running: Running
    process: int
    good: Load
    bad: Load
    chance: random.Random
    statuses: Counter[str] = field(default_factory=Counter)
    looks: list[Look] = field(default_factory=list)

    async def run(self, requests: int) -> None:
        """Send `requests`, `WINDOW` at once, and look `LOOKS` times, each time once nothing is under way."""
        step = max(requests // LOOKS, SMALLEST_STEP)
        for start in range(0, requests, step):
            numbers = iter(range(start, min(start + step, requests)))
            await asyncio.gather(*(self._caller(numbers) for _ in range(WINDOW)))
            await asyncio.sleep(1.2)  # The loop's tasks are counted once a second.
            self.looks.append(await self._look(min(start + step, requests)))
            print(f"soak: {self.looks[-1]}", file=sys.stderr, flush=True)  # noqa: T201 - progress

    async def _caller(self, numbers: Any) -> None:
        for number in numbers:
            self.statuses[await self._one(number)] += 1

    async def _one(self, number: int) -> str:
        kind = self.chance.random()
        if kind < BAD:
            return f"bad {(await self.bad.one(number)).status}"
        call: asyncio.Task[Call] = asyncio.create_task(self.good.one(number))
        if kind < BAD + CANCELLED:
            await asyncio.wait({call}, timeout=self.chance.uniform(0, 0.08))
            if call.cancel():
                await asyncio.gather(call, return_exceptions=True)
                return "cancelled"
        return (await call).status

    async def _look(self, requests: int) -> Look:
        metrics = await asyncio.to_thread(self.running.metrics)
        family = [self.process, *children(self.process)]
        return Look(
            requests,
            sum(map(resident_bytes, family)) / 2**20,
            sum(map(descriptors, family)),
            round(metrics["gmvaluator_event_loop_tasks"]),
        )


def descriptors(process: int) -> int:
    """File descriptors that a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def children(process: int) -> list[int]:
    """Processes that a process started and that still run."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for path in tasks for word in path.read_text(encoding="utf-8").split()]


def run_soak(requests: int, points: int, seed: int) -> dict[str, Any]:
    """Figures of one run: growth after the first tenth, by least squares, and what was answered."""
    # The index engine ends a moment after its last user, and may still write there.
    with tempfile.TemporaryDirectory(prefix="gmvaluator-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        images = [path.read_bytes() for path in image_files(jpegs(folder))]
        data = stub_data(folder, points)
        began = time.monotonic()
        with serving(data, "--profile", PROFILE) as running:
            soak = asyncio.run(_soak(running, data, images, requests, seed))
        seconds = time.monotonic() - began
    return {"soak_requests": requests, "soak_s": seconds, **_growth(soak.looks), "soak_statuses": dict(soak.statuses)}


async def _soak(running: Running, data: Path, images: list[bytes], requests: int, seed: int) -> Soak:
    good = Load(running.address, images, MODEL_VERSION, "good")
    bad = Load(running.address, [image[:200] for image in images], MODEL_VERSION, "bad")
    soak = Soak(running, process_of(data), good, bad, random.Random(seed))  # noqa: S311 - a schedule, not a secret
    try:
        await soak.run(requests)
    finally:
        await good.close()
        await bad.close()
    return soak


def _growth(looks: list[Look]) -> dict[str, Any]:
    settled = looks[int(len(looks) * SETTLED) :]
    slope, _ = np.polyfit([look.requests / 10_000 for look in settled], [look.rss_mb for look in settled], 1)
    return {
        "soak_rss_mb_per_10k": float(slope),
        "soak_rss_first_mb": settled[0].rss_mb,
        "soak_rss_last_mb": settled[-1].rss_mb,
        "soak_descriptors_grown": settled[-1].descriptors - settled[0].descriptors,
        "soak_tasks_grown": settled[-1].tasks - settled[0].tasks,
    }


@click.command()
@click.option("--requests", default=200_000, show_default=True, type=click.IntRange(LOOKS), help="In all.")
@click.option("--points", default=20_000, show_default=True, type=click.IntRange(1_000), help="Of the index.")
@click.option("--seed", default=1, show_default=True, help="The same seed sends the same requests.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def soak(requests: int, points: int, seed: int, output: Path | None) -> None:
    """Send very many requests, a fifth of them cancelled and 2 % bad; exits 1 if anything grows or fails.

    Example: python -m evaluation.bench.serving.soak --requests 2000
    """
    figures = run_soak(requests, points, seed)
    command = f"python -m evaluation.bench.serving.soak --requests {requests} --points {points} --seed {seed}"
    write_report(figures, command, output)
    if not sound(figures):
        sys.exit(1)


def sound(figures: dict[str, Any]) -> bool:
    """True if memory grows by 1 MB per 10,000 requests at most, nothing else grows, and all had the right answer."""
    return (
        figures["soak_rss_mb_per_10k"] <= 1
        and figures["soak_descriptors_grown"] <= 0
        and figures["soak_tasks_grown"] <= 0
        and not set(figures["soak_statuses"]) - {"OK", "cancelled", "bad INVALID_ARGUMENT"}
    )


if __name__ == "__main__":
    soak()
