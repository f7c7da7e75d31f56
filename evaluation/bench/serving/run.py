"""Runner of `gmvaluator bench serve`: prepares the data and measures the requested sections."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.bench.serving import sections
from evaluation.bench.serving.hostile import hostile
from evaluation.bench.serving.setup import Lags, built_stub_data, jpegs, stub_data
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import Failure, MissingData
from gmvaluator.index.verify import verify

SECTIONS = ("lite", "paper", "sustained", "indexing", "batching", "overload", "leaving", "hostile")
ON_STUBS = SECTIONS[2:]
"""Sections that use stub models, and therefore the index of stub vectors."""

SEEDED_PACKAGES = ("open_clip", "dreamsim", "peft", "pyiqa")
"""Packages with which the checkpoints with seeded weights are written."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amounts to send; the defaults are the complete measurement.

    paper: options that choose the models of section `paper`; empty writes seeded weights, 1.5 GB for the duration of
    the run. keep: folder for the stubs' index and the seeded weights, which take minutes to make and are reused if
    they exist.
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


def bench_serve(names: Iterable[str], sizes: Sizes) -> dict[str, Any]:
    """Measure the named sections and return their figures; `*_section_s` is the duration of each.

    Raises MissingData, before anything is measured, if section `paper` is named and its models cannot be made.
    """
    selected = [name for name in SECTIONS if name in set(names)]
    if "paper" in selected and not sizes.paper:
        require_seeded_models()
    lags, figures = Lags(), dict[str, Any]()
    # The index engine ends a moment after its last user, and may still write there.
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if sizes.keep is not None:
            sizes.keep.mkdir(parents=True, exist_ok=True)
        steps = _steps(folder, lags, sizes, selected)
        for section in selected:
            print(f"bench serve: {section}", file=sys.stderr)  # noqa: T201 - progress
            began = time.monotonic()
            figures |= steps[section]()
            figures[f"{section}_section_s"] = time.monotonic() - began
    return {**figures, **lags.figures()}


def _steps(folder: Path, lags: Lags, sizes: Sizes, selected: Sequence[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the function that measures each section; prepares the stubs' index if a selected section needs it."""
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "lite": lambda: sections.lite(folder, lags, sizes.count, sizes.concurrency),
        "paper": lambda: sections.paper(
            folder, lags, sizes.paper or _seeded(sizes.keep or folder), sizes.paper_count, sizes.concurrency
        ),
    }
    if not set(selected) & set(ON_STUBS):
        return steps
    images, (data, index_figures) = jpegs(folder), _stubs(folder, sizes)
    return steps | {
        "sustained": lambda: {
            **index_figures,
            **sections.sustained(data, images, lags, sizes.per_second, sizes.sustained_s),
        },
        "indexing": lambda: sections.while_indexing(data, images, lags, sizes.per_second / 3, sizes.overload_s / 2),
        "batching": lambda: sections.batching(data, images, lags, sizes.count // 2),
        "overload": lambda: sections.overload(data, images, lags, sizes.count // 2, sizes.overload_s),
        "leaving": lambda: sections.leaving(data, images, lags, sizes.calls),
        "hostile": lambda: hostile(data, images, lags, sizes.hostile_times),
    }


def _stubs(folder: Path, sizes: Sizes) -> tuple[Path, dict[str, Any]]:
    """Prepare the data folder with the stubs' index, verified as by an operator, and return it with the figures."""
    # A kept index is copied, because the measurements write to it.
    if sizes.keep is None:
        data = stub_data(folder, sizes.points)
    else:
        data = Path(shutil.copytree(built_stub_data(sizes.keep, sizes.points), folder / "stub"))
        with open_catalogue(data, write=True):
            pass  # opening for writing migrates the catalogue of an older version
    figures = verify(data / "index")
    return data, {f"index_{name}": figures[name] for name in ("recall_at_50", "oversampling", "hnsw_ef")}


def require_seeded_models() -> None:
    """Raise MissingData unless the packages that write models with seeded weights are installed."""
    missing = [name for name in SEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingData(
            f"section `paper` cannot make its models without {', '.join(missing)}: install what is missing, "
            "or name other models by --paper"
        )


def _seeded(folder: Path) -> tuple[str, ...]:
    """Write seeded weights of ViT-B/32 and DreamSim `open_clip_vitb32` if absent; return the options that choose them.

    Raises Failure.
    """
    # The file is created last: without it, the folder may hold half of the models.
    models, complete = folder / "models", folder / "models-are-made"
    if not complete.is_file():
        command = [sys.executable, "-m", "evaluation.bench.serving.seeded_models", str(models)]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
        if done.returncode != 0:
            raise Failure(f"writing the models of section `paper` ended with exit code {done.returncode}: see above")
        complete.touch()
    return ("--profile", "paper", "--models", str(models), "--rerank", "dreamsim:open_clip_vitb32", "--quality", "off")
