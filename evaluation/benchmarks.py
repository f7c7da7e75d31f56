"""All benchmarks of the credits: run them in order, resume a stopped run, and write the report after each."""

from __future__ import annotations

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
from gmvaluator.files import atomic_write
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import profile_identity
from gmvaluator.report import commit, report


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of every benchmark.

    short: few images, to check that everything works. work: folder of intermediate results that a later run reuses.
    fashion: folder of Fashion-MNIST's idx files, or None to leave it out.
    """

    profile: str
    short: bool
    work: Path
    fashion: Path | None


def _known_source(settings: Settings) -> Sequence[Section]:
    from evaluation.known_source.run import known_source

    return [known_source(settings.profile, settings.short)]


def _criteria(settings: Settings) -> Sequence[Section]:
    from evaluation.criteria.run import criteria

    return criteria(settings.profile, settings.short, settings.work, settings.fashion)


def _counterfactual(settings: Settings) -> Sequence[Section]:
    from evaluation.counterfactual.section import counterfactual

    return [counterfactual(settings.profile, settings.short, settings.work)]


def _duplicates(settings: Settings) -> Sequence[Section]:
    from evaluation.duplicates.run import duplicates

    return [duplicates(settings.profile, settings.short)]


BENCHMARKS: dict[str, Callable[[Settings], Sequence[Section]]] = {
    "known-source": _known_source,
    "criteria": _criteria,
    "counterfactual": _counterfactual,
    "duplicates": _duplicates,
}
"""Name to benchmark, in the order of the report. Each imports torch when it runs, so that the table costs nothing."""


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
    sections = BENCHMARKS[name](settings)
    _say(f"{name}: done in {time.monotonic() - started:,.0f} s")
    stored = {"key": key, "sections": [to_json(section) for section in sections]}
    atomic_write(kept, json.dumps(stored))
    return [from_json(section) for section in stored["sections"]]


def _key(settings: Settings) -> dict[str, Any]:
    """Return everything a result depends on; all uncommitted changes count as one state."""
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
