"""Runs every benchmark, keeps what is done, and writes the page after each."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from evaluation.report.html import render
from evaluation.report.sections import Section, from_json, to_json
from gmvaluator.errors import InvalidInput
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import profile_identity
from gmvaluator.report import commit, report


@dataclass(frozen=True, slots=True)
class Settings:
    """What every benchmark is told.

    short: few images, for a check that everything works. work: a folder for what a benchmark may take up again.
    fashion: folder of Fashion-MNIST's idx files, or None.
    """

    profile: str
    short: bool
    work: Path
    fashion: Path | None


Benchmark = Callable[[Settings], Sequence[Section]]
BENCHMARKS = {
    "known-source": "evaluation.report_benchmarks:known_source",
    "criteria": "evaluation.report_benchmarks:criteria",
    "counterfactual": "evaluation.report_benchmarks:counterfactual",
    "duplicates": "evaluation.report_benchmarks:duplicates",
}
"""Name to `module:function` of a Benchmark, in the report's order."""


def run_all(settings: Settings, out: Path, command: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmarks, or those named in `only`, and write `index.html` and `results.json` to `out`.

    Returns what `results.json` holds. A benchmark that was finished before, on the same commit, profile and policy and
    with the same settings, is not run again. Raises InvalidInput if `only` names no benchmark.
    """
    unknown = set(only) - set(BENCHMARKS)
    if unknown:
        raise InvalidInput(f"there is no benchmark {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    out.mkdir(parents=True, exist_ok=True)
    settings.work.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    result: dict[str, Any] = {}
    for name in only or BENCHMARKS:
        sections += _kept_or_run(name, settings)
        result = _write(sections, out, command, settings.short)
    return result


def _kept_or_run(name: str, settings: Settings) -> list[Section]:
    key = _key(settings)
    kept = settings.work / f"{name}.sections.json"
    if kept.exists():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if stored["key"] == key:
            _say(f"{name}: done before")
            return [from_json(section) for section in stored["sections"]]
    _say(f"{name}: running")
    started = time.monotonic()
    sections = _load(name)(settings)
    _say(f"{name}: done in {time.monotonic() - started:,.0f} s")
    stored = {"key": key, "sections": [to_json(section) for section in sections]}
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(stored), encoding="utf-8")
    part.rename(kept)
    return [from_json(section) for section in stored["sections"]]


def _key(settings: Settings) -> dict[str, Any]:
    """What a result depends on; changed files that are not committed count as one state."""
    policies = sorted(
        resources.files("gmvaluator.valuation").joinpath("policies").iterdir(), key=lambda file: file.name
    )
    return {
        "commit": commit(),
        "profile": profile_identity(settings.profile).hash,
        "policies": {file.name: sha256_hex(file.read_bytes()) for file in policies},
        "short": settings.short,
        "fashion": settings.fashion is not None,
    }


def _load(name: str) -> Benchmark:
    module, _, function = BENCHMARKS[name].partition(":")
    benchmark: Benchmark = getattr(importlib.import_module(module), function)
    return benchmark


def _write(sections: Sequence[Section], out: Path, command: str, short: bool) -> dict[str, Any]:
    figures: dict[str, float] = {}
    for section in sections:
        figures |= section.figures
    result = report(figures, command)
    page = render(sections, figures, result, short)
    (out / "index.html").write_text(page, encoding="utf-8")
    result |= {"short": short, "sections": [_without_pictures(section) for section in sections]}
    (out / "results.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _without_pictures(section: Section) -> Mapping[str, Any]:
    value = to_json(section)
    return {name: value[name] for name in ("title", "text", "tables", "figures", "details")}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
