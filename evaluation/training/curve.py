"""The curve of a training: one CSV file and its plot."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.plotting import draw
from evaluation.training.adapt import Watch

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_curve(curves: Mapping[str, Sequence[Watch]], folder: Path) -> None:
    """Write `lite-training.csv` and `lite-training.svg`, the stages one after the other."""
    with (folder / "lite-training.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, ["stage", *(field.name for field in fields(Watch))], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"stage": stage, **asdict(watch)} for stage, watches in curves.items() for watch in watches)
    (folder / "lite-training.svg").write_text(draw(lambda axes: _paint(curves, axes)), encoding="utf-8")


def _paint(curves: Mapping[str, Sequence[Watch]], axes: Axes) -> None:
    steps, before = [], 0
    for watches in curves.values():
        steps += [before + watch.step for watch in watches]
        before += watches[-1].step
        axes.axvline(before, color="#6b6f76", linewidth=0.8)
    watches = [watch for stage in curves.values() for watch in stage]
    axes.plot(steps, [watch.source_first for watch in watches], label="source first")
    axes.plot(steps, [watch.credit for watch in watches], label="credit to the source")
    axes.plot(steps, [watch.absent_auc for watch in watches], label="AUC, source present or absent")
    axes.set_xlabel("steps of 96 works")
    axes.set_ylabel("on the validation artists")
    axes.legend()
