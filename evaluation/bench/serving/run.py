"""All sections of `gmvaluator bench serve`, or those that were asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.bench.serving import sections as against_models
from evaluation.bench.serving import sections as under_load
from evaluation.bench.serving.hostile import hostile
from evaluation.bench.serving.setup import Lags, built_stub_data, jpegs, stub_data
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.index.verify import verify

ROOT = Path(__file__).parents[3]
SEEDED = ROOT / "tests" / "models" / "seeded.py"
"""Writes checkpoints of seeded numbers, in the formats of the real ones."""

SECTIONS = ("lite", "paper", "sustained", "indexing", "batching", "overload", "leaving", "hostile")
ON_STUBS = SECTIONS[2:]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is sent; the defaults are the complete measurement.

    paper: options that choose the models of `paper`; empty makes seeded weights in a checkout, 1.5 GB for the time of
    the run, and elsewhere leaves that section out. keep: folder of the stubs' index and the seeded weights, which take
    minutes to make and are used again if they are there.
    """

    count: int = 600
    concurrency: int = 32
    paper: tuple[str, ...] = ()
    paper_count: int = 96
    points: int = 100_000
    per_second: float = 60.0
    sustained_s: float = 300.0
    overload_s: float = 60.0
    calls: int = 1_000
    hostile_times: int = 20
    keep: Path | None = None


def bench_serve(sections: Iterable[str], sizes: Sizes) -> dict[str, Any]:
    """Figures of the sections, by the names of the goals; `*_section_s` says how long each took."""
    wanted = [name for name in SECTIONS if name in set(sections)]
    if "paper" in wanted and not sizes.paper and not SEEDED.is_file():
        wanted.remove("paper")
    lags, figures = Lags(), dict[str, Any]()
    # The index engine ends a moment after its last user, and may still write there.
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if sizes.keep is not None:
            sizes.keep.mkdir(parents=True, exist_ok=True)
        steps = _steps(folder, lags, sizes, wanted)
        for section in wanted:
            print(f"bench serve: {section}", file=sys.stderr)  # noqa: T201 - progress
            began = time.monotonic()
            figures |= steps[section]()
            figures[f"{section}_section_s"] = time.monotonic() - began
    return {**figures, **lags.figures()}


def _steps(folder: Path, lags: Lags, sizes: Sizes, wanted: Sequence[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "lite": lambda: against_models.lite(folder, lags, sizes.count, sizes.concurrency),
        "paper": lambda: against_models.paper(
            folder, lags, sizes.paper or _seeded(sizes.keep or folder), sizes.paper_count, sizes.concurrency
        ),
    }
    if not set(wanted) & set(ON_STUBS):
        return steps
    images, (data, found) = jpegs(folder), _stubs(folder, sizes)
    return steps | {
        "sustained": lambda: {
            **found,
            **under_load.sustained(data, images, lags, sizes.per_second, sizes.sustained_s),
        },
        "indexing": lambda: under_load.while_indexing(data, images, lags, sizes.per_second / 3, sizes.overload_s / 2),
        "batching": lambda: under_load.batching(data, images, lags, sizes.count // 2),
        "overload": lambda: under_load.overload(data, images, lags, sizes.count // 2, sizes.overload_s),
        "leaving": lambda: under_load.leaving(data, images, lags, sizes.calls),
        "hostile": lambda: hostile(data, images, lags, sizes.hostile_times),
    }


def _stubs(folder: Path, sizes: Sizes) -> tuple[Path, dict[str, Any]]:
    """The index of stubs, verified as an operator's first start has it, and what that found; a copy of a kept one,
    since measuring writes into it."""
    if sizes.keep is None:
        data = stub_data(folder, sizes.points)
    else:
        data = Path(shutil.copytree(built_stub_data(sizes.keep, sizes.points), folder / "stub"))
        with open_catalogue(data, write=True):
            pass  # opening it to write has brought an older one up to date
    found = verify(data / "index")
    return data, {f"index_{name}": found[name] for name in ("recall_at_50", "oversampling", "hnsw_ef")}


def _seeded(folder: Path) -> tuple[str, ...]:
    """Options that choose seeded weights of ViT-B/32 and of DreamSim `open_clip_vitb32`, made if they are not there."""
    models, made = folder / "models", folder / "models-are-made"
    if not made.is_file():
        command = [sys.executable, "-m", "tests.models.seeded", str(models)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
        made.touch()
    return ("--profile", "paper", "--models", str(models), "--rerank", "dreamsim:open_clip_vitb32", "--quality", "off")
