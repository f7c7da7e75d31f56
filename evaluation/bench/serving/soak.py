"""Soak test, `make soak`: many good, bad and cancelled requests, to detect leaks.

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
"""Concurrent requests."""

SETTLED = 0.1
"""Share of the requests after which memory may no longer grow: 20,000 of 200,000."""

SAMPLES = 100
"""Samples of memory, file descriptors and tasks."""

SMALLEST_STEP = 50
"""Requests between two samples, at least."""

CANCELLED, BAD = 0.20, 0.02
"""Shares of the requests that are cancelled, and that are invalid."""


@dataclass(slots=True)
class Sample:
    """State of the attributor at one moment; memory and file descriptors include its child processes."""

    requests: int
    rss_mb: float
    descriptors: int
    tasks: int


@dataclass(slots=True)
class Soak:
    """The requests of a run, and the samples of the attributor."""

    running: Running
    process: int
    good: Load
    bad: Load
    chance: random.Random
    statuses: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    async def run(self, requests: int) -> None:
        """Send `requests` requests, `WINDOW` at a time, and take `SAMPLES` samples while no request is in flight."""
        step = max(requests // SAMPLES, SMALLEST_STEP)
        for start in range(0, requests, step):
            numbers = iter(range(start, min(start + step, requests)))
            await asyncio.gather(*(self._caller(numbers) for _ in range(WINDOW)))
            await asyncio.sleep(1.2)  # the attributor counts its tasks once a second
            self.samples.append(await self._sample(min(start + step, requests)))
            print(f"soak: {self.samples[-1]}", file=sys.stderr, flush=True)  # noqa: T201 - progress

    async def _caller(self, numbers: Any) -> None:
        for number in numbers:
            self.statuses[await self._send(number)] += 1

    async def _send(self, number: int) -> str:
        kind = self.chance.random()
        if kind < BAD:
            return f"bad {(await self.bad.send(number)).status}"
        call: asyncio.Task[Call] = asyncio.create_task(self.good.send(number))
        if kind < BAD + CANCELLED:
            await asyncio.wait({call}, timeout=self.chance.uniform(0, 0.08))
            if call.cancel():
                await asyncio.gather(call, return_exceptions=True)
                return "cancelled"
        return (await call).status

    async def _sample(self, requests: int) -> Sample:
        metrics = await asyncio.to_thread(self.running.metrics)
        family = [self.process, *children(self.process)]
        return Sample(
            requests,
            sum(map(resident_bytes, family)) / 2**20,
            sum(map(descriptors, family)),
            round(metrics["gmvaluator_event_loop_tasks"]),
        )


def descriptors(process: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def children(process: int) -> list[int]:
    """Return the ids of the running child processes of a process."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for path in tasks for word in path.read_text(encoding="utf-8").split()]


def run_soak(requests: int, points: int, seed: int) -> dict[str, Any]:
    """Run the soak test; return the growth after the first tenth, by least squares, and the requests' statuses."""
    # The index engine ends a moment after its last user, and may still write there.
    with tempfile.TemporaryDirectory(prefix="gmvaluator-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        images = [path.read_bytes() for path in image_files(jpegs(folder))]
        data = stub_data(folder, points)
        began = time.monotonic()
        with serving(data, "--profile", PROFILE) as running:
            soak = asyncio.run(_soak(running, data, images, requests, seed))
        seconds = time.monotonic() - began
    return {"soak_requests": requests, "soak_s": seconds, **_growth(soak.samples), "soak_statuses": dict(soak.statuses)}


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


def _growth(samples: list[Sample]) -> dict[str, Any]:
    settled = samples[int(len(samples) * SETTLED) :]
    slope, _ = np.polyfit([sample.requests / 10_000 for sample in settled], [sample.rss_mb for sample in settled], 1)
    return {
        "soak_rss_mb_per_10k": float(slope),
        "soak_rss_first_mb": settled[0].rss_mb,
        "soak_rss_last_mb": settled[-1].rss_mb,
        "soak_descriptors_grown": settled[-1].descriptors - settled[0].descriptors,
        "soak_tasks_grown": settled[-1].tasks - settled[0].tasks,
    }


@click.command()
@click.option("--requests", default=200_000, show_default=True, type=click.IntRange(SAMPLES), help="Requests to send.")
@click.option("--points", default=20_000, show_default=True, type=click.IntRange(1_000), help="Points in the index.")
@click.option("--seed", default=1, show_default=True, help="The same seed sends the same requests.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Report; default: standard output.")
def soak(requests: int, points: int, seed: int, output: Path | None) -> None:
    """Send many requests, a fifth of them cancelled and 2 % invalid; exit with 1 if anything grows or fails.

    Example: python -m evaluation.bench.serving.soak --requests 2000
    """
    figures = run_soak(requests, points, seed)
    command = f"python -m evaluation.bench.serving.soak --requests {requests} --points {points} --seed {seed}"
    write_report(figures, command, output)
    if not passed(figures):
        sys.exit(1)


def passed(figures: dict[str, Any]) -> bool:
    """Return whether memory grew by at most 1 MB per 10,000 requests, nothing else grew, and all statuses are right."""
    return (
        figures["soak_rss_mb_per_10k"] <= 1
        and figures["soak_descriptors_grown"] <= 0
        and figures["soak_tasks_grown"] <= 0
        and not set(figures["soak_statuses"]) - {"OK", "cancelled", "bad INVALID_ARGUMENT"}
    )


if __name__ == "__main__":
    soak()
