"""The near-duplicates benchmark: the curve of thresholds, and what copies earn."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.duplicates.inflation import Earned, measure
from evaluation.duplicates.threshold import KINDS, LEVELS, MIN_PRECISION, Distances, Point, chosen, curve, measured
from evaluation.images.recipes import FIT_OWNERS
from evaluation.images.sample import Work, read_works
from evaluation.report.plots import draw, mean_interval
from evaluation.report.sections import Cell, Estimate, Plot, Section, Table
from gmvaluator.images import decode_image
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Models
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy, load_policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, CALIBRATED = "paper@1", "calibrated@3"
TARGETS, SHORT_TARGETS = 12, 2
"""Works that are copied: half by their owners, half by somebody else."""

IN_USE = 0.2
"""`indexer.near_duplicates.THRESHOLDS` of `lite`; a test compares the two."""

SHORT_WORKS = 16
_STRENGTHS, _SHORT_STRENGTHS = 4, 1
_SHOWN = (4, 6, 8, 10, 14, 18, 19, 20, 22, 26, 30)
"""Thresholds shown in the table, in hundredths."""


def duplicates(profile: str, short: bool, reference: str = CALIBRATED) -> Section:
    """Run the benchmark and return its section. reference: the policy that pays, given groups if it has none."""
    fit, test = _curves(load_models(profile), short)
    policies = policies_compared(load_policy(reference))
    with tempfile.TemporaryDirectory() as folder:
        count, strengths = (SHORT_TARGETS, _SHORT_STRENGTHS) if short else (TARGETS, _STRENGTHS)
        among = SHORT_WORKS if short else None
        # The one that pays is one of the others too, as a rule: what is the same is valued once.
        different = list(dict.fromkeys(policies.values()))
        earned = measure(Path(folder), profile, different, count, strengths, among)
    by_name = {name: earned[different.index(policy)] for name, policy in policies.items()}
    return duplicates_section(chosen(fit), fit, test, by_name)


def policies_compared(paid_by: Policy) -> dict[str, Policy]:
    """Return the policies by name; the first is the one that pays, unchanged unless it has no groups."""
    pays = paid_by if paid_by.groups is not None else replace(paid_by, groups="first")
    return {
        f"{paid_by.reference}, groups by the {pays.groups}: it pays": pays,
        **{f"{paid_by.reference}, groups by the {way}": replace(paid_by, groups=way) for way in ("first", "nearest")},
        f"{paid_by.reference}, no groups": replace(paid_by, groups=None),
        PAPER: load_policy(PAPER),
    }


def _curves(models: Models, short: bool) -> tuple[list[Point], list[Point]]:
    works = list(read_works(sample_folder("openclipart")).values())
    halves = [[work for work in works if (work.owner_id in FIT_OWNERS) == fit] for fit in (True, False)]
    fit, test = (curve(_distances(models, half[:SHORT_WORKS] if short else half)) for half in halves)
    return fit, test


def _distances(models: Models, works: Sequence[Work]) -> Distances:
    folder = sample_folder("openclipart")
    return measured(models, works, [decode_image((folder / work.file_name).read_bytes()) for work in works])


def duplicates_section(
    best: Point, fit: Sequence[Point], test: Sequence[Point], earned: dict[str, list[Earned]]
) -> Section:
    """Build the section. best: chosen on fit artists. earned: by policy, the one that pays first."""
    reported, used = (
        next(point for point in test if point.threshold == threshold) for threshold in (best.threshold, IN_USE)
    )
    return Section(
        "Near-duplicates",
        [
            "Near-duplicates of the sample's works were made by five recipes at five levels: re-encoded, made smaller, "
            "recoloured, cut by a tenth of each side, mirrored. Distances are of the whole images. The threshold is "
            f"the largest at which {MIN_PRECISION:.1%} of what it joins on the fit artists' works are copies, against "
            f"works of other owners; the index uses {IN_USE:g}. Everything else quoted is of the other artists.",
            "Works of one owner that look alike (arrows, switches, stars in one style) count as wrong in the stricter "
            "precision. To join them moves no credit from one owner to another.",
            f"{COPIES} copies of each chosen work were then added to the real index, grouped, and the same derivatives "
            "of the work valued before and after. Inflation is what the adder earns more, as a part of what the "
            "work's owner earned before.",
        ],
        _figures(reported, used, earned),
        [_thresholds(test), _inflations(earned)],
        [_plot(test, best.threshold)],
        details={"fit": [_plain(point) for point in fit], "test": [_plain(point) for point in test]},
    )


COPIES = len(KINDS) * LEVELS


def _figures(reported: Point, used: Point, earned: dict[str, list[Earned]]) -> dict[str, float]:
    paid, first, nearest, plain, paper = earned.values()
    figures = {
        "duplicate_threshold": reported.threshold,
        "duplicate_recall": reported.recall_all,
        "duplicate_precision_other_owners": reported.precision_other_owners,
        "duplicate_precision_all": reported.precision_all,
        **{f"duplicate_recall_{kind}": reported.recall[kind] for kind in KINDS},
        "duplicate_threshold_in_use": used.threshold,
        "duplicate_recall_in_use": used.recall_all,
        "duplicate_precision_other_owners_in_use": used.precision_other_owners,
        "duplicate_inflation": _inflation(paid),
        "duplicate_inflation_by_owner": _inflation([earning for earning in paid if earning.target.by_owner]),
        "duplicate_inflation_by_other": _inflation([earning for earning in paid if not earning.target.by_owner]),
        "duplicate_inflation_by_first": _inflation(first),
        "duplicate_inflation_by_nearest": _inflation(nearest),
        "duplicate_inflation_without_groups": _inflation(plain),
        "duplicate_inflation_paper": _inflation(paper),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def _inflation(earned: Sequence[Earned]) -> float:
    """Return the inflation of all credit together."""
    return sum(earning.after - earning.before for earning in earned) / max(
        sum(earning.owner_before for earning in earned), 1
    )


def _thresholds(points: Sequence[Point]) -> Table:
    shown = [point for point in points if round(100 * point.threshold) in _SHOWN]
    rows: list[list[Cell | Estimate]] = [
        [point.threshold, *(point.recall[kind] for kind in KINDS), point.recall_all, point.precision_other_owners,
         point.precision_all]
        for point in shown
    ]  # fmt: skip
    columns = ("distance at most", *KINDS, "all", "precision, other owners", "precision, all works")
    return Table("Near-duplicates found at each threshold, test artists", columns, rows)


def _inflations(earned: dict[str, list[Earned]]) -> Table:
    rows: list[list[Cell | Estimate]] = [
        [
            name,
            mean_interval([earning.inflation for earning in earnings if earning.target.by_owner]),
            mean_interval([earning.inflation for earning in earnings if not earning.target.by_owner]),
            max(earning.inflation for earning in earnings),
        ]
        for name, earnings in earned.items()
    ]
    columns = ("policy", "copies by the owner", "copies by another", "worst work")
    return Table(f"Rise of the adder's credit through {COPIES} near-duplicates of a work", columns, rows)


def _plot(points: Sequence[Point], threshold: float) -> Plot:
    def paint(axes: Axes) -> None:
        steps = [point.threshold for point in points]
        for kind in KINDS:
            axes.plot(steps, [point.recall[kind] for point in points], label=kind)
        axes.plot(steps, [point.precision_other_owners for point in points], "--", label="precision, other owners")
        axes.plot(steps, [point.precision_all for point in points], ":", label="precision, all works")
        axes.axvline(threshold, color="#999999", linewidth=1)
        axes.set(xlabel="perceptual distance at most", ylabel="share", ylim=(0, 1.02))
        axes.legend(fontsize=8, loc="lower right")

    return Plot(
        f"Recall of near-duplicates by kind, and precision; the line is what the rule chooses, {threshold:g}.",
        draw(paint),
    )


def _plain(point: Point) -> dict[str, object]:
    return {
        "threshold": point.threshold,
        "recall": {kind: round(value, 4) for kind, value in point.recall.items()},
        "precision_other_owners": round(point.precision_other_owners, 4),
        "precision_all": round(point.precision_all, 4),
    }
