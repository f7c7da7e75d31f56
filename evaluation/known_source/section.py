"""The known-source section of the report: tables, curves and galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from evaluation.images.changes import FIT_KINDS
from evaluation.images.recipes import STRENGTHS
from evaluation.known_source import measures
from evaluation.known_source.observations import Observation
from evaluation.known_source.owner_effects import gallery
from evaluation.known_source.policies import PolicyShares
from evaluation.known_source.queries import COPY, NOISE, RECONSTRUCTION
from evaluation.report.plots import COLOURS, draw
from evaluation.report.sections import Cell, Estimate, Plot, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOREIGN_KINDS = ("photo", NOISE, "digit", "stranger", "stamp")
_TITLES = {
    "photo": "photographs",
    NOISE: "noise and gradients",
    "digit": "handwritten digits",
    "stranger": "clip art by unseen artists",
    "stamp": "stamps of Tux Paint",
}


def known_source_section(
    observations: Sequence[Observation],
    rows: Sequence[PolicyShares],
    main: PolicyShares,
    bare: PolicyShares,
    paper: PolicyShares,
) -> Section:
    """Build the section. main: the calibrated policy. bare: it with nothing unattributed. paper: equations 4-6."""
    reliability = measures.reliability(main)
    return Section(
        "Known sources",
        _text(observations),
        _figures(main, bare, paper, reliability.error),
        [
            _ranking(observations),
            _comparison(rows),
            _by_kind(main, bare, paper),
            _composed(main, bare, paper),
            _foreign(main, paper),
        ],
        [_strength_plot(main, paper), _trade_off(main, bare), _reliability_plot(reliability)],
        [gallery(main, best=True), gallery(main, best=False)],
        {"images": _counts(observations)},
    )


def kinds_of(observations: Sequence[Observation], selects: measures.Selector) -> list[str]:
    """Return the kinds of the selected images, in order of appearance."""
    return list(dict.fromkeys(observation.query.kind for observation in observations if selects(observation)))


def _fitted_kinds(observations: Sequence[Observation], fitted: bool) -> list[str]:
    """Return the kinds of change that a fit may use, or those that none may."""
    return [kind for kind in kinds_of(observations, measures.is_single) if (kind in FIT_KINDS) == fitted]


def _text(observations: Sequence[Observation]) -> list[str]:
    singles = sum(observation.single for observation in observations)
    foreign = sum(not observation.sources for observation in observations)
    unseen = _fitted_kinds(observations, fitted=False)
    apart = kinds_of(observations, lambda observation: bool(observation.sources) and not observation.single)
    return [
        f"{singles} derivatives of one work each, made by {len(kinds_of(observations, measures.is_single))} kinds of "
        "change at four strengths from works of artists that nothing was fitted on; images that were counted apart: "
        f"{', '.join(apart)}, of which those of several works have known shares; and {foreign} images that have no "
        "source in the index. All 1,051 works of the sample are indexed, and every image went through the real index: "
        "recall from the quantised vectors, then the perceptual distance.",
        f"The kinds {', '.join(unseen)} were never used for training or fitting. Intervals are of 2,000 resamples of "
        "whole artists and photographs.",
        "A derivative is known to come from its source because it was made from it. Images of a generator have no "
        "such truth; what is measured here is whether the credit finds the source when there is one.",
    ]


def _counts(observations: Sequence[Observation]) -> dict[str, int]:
    kinds = sorted({observation.query.kind for observation in observations})
    return {kind: sum(observation.query.kind == kind for observation in observations) for kind in kinds}


def _figures(main: PolicyShares, bare: PolicyShares, paper: PolicyShares, error: float) -> dict[str, float]:
    observations = main.observations
    single = measures.credit(main, measures.is_single).value
    by_kind = _credit_by_kind(main)
    figures = {
        "credit_to_source_paper": measures.credit(paper, measures.is_single).value,
        "credit_to_source_calibrated": single,
        "credit_to_source_worst_kind": min(by_kind[kind] for kind in kinds_of(observations, measures.is_single)),
        "credit_to_source_copies": measures.credit(main, measures.is_kind(COPY)).value,
        "foreign_to_unattributed": measures.unattributed(main, measures.is_photo_or_noise).value,
        "foreign_cost_points": 100 * (measures.credit(bare, measures.is_single).value - single),
        "stranger_to_unattributed": measures.unattributed(main, measures.is_stranger).value,
        "all_foreign_to_unattributed": measures.unattributed(main, measures.is_foreign).value,
        "no_source_auc": measures.absent_auc(main).value,
        "no_source_auc_stranger": measures.absent_auc(main, measures.is_stranger).value,
        "ece": error,
        "ece_all_images": measures.reliability(main, measures.is_any).error,
        "composition_mae": measures.composition_error(main).value,
        "composition_second_source_found": measures.further_sources_found(main).value,
        "composition_sources_recalled": measures.sources_recalled(observations).value,
        "wrongly_verified_per_thousand": measures.wrongly_verified_per_thousand(observations).value,
        "source_first": measures.source_within(observations, 1, recalled=False).value,
        "source_within_50_recalled": measures.source_within(observations, 50, recalled=True).value,
    }
    for name, fitted in (("seen", True), ("unseen", False)):
        if kinds := _fitted_kinds(observations, fitted):
            figures[f"credit_to_source_{name}_recipes"] = measures.credit(main, measures.is_kind(*kinds)).value
    for kind, value in by_kind.items():
        # A kind may be called like a policy, whose figure stays: `paper` is a texture as well.
        name = f"credit_to_source_{kind}"
        figures[f"credit_to_source_kind_{kind}" if name in figures else name] = value
    return {name: round(value, 4) for name, value in figures.items()}


def _credit_by_kind(main: PolicyShares) -> dict[str, float]:
    """Return the mean credit of each change of one work, and of reconstructions where there are any."""
    kinds = kinds_of(main.observations, lambda one: one.single or one.query.kind == RECONSTRUCTION)
    return {kind: measures.credit(main, measures.is_kind(kind)).value for kind in kinds}


def _ranking(observations: Sequence[Observation]) -> Table:
    rows: list[list[Cell | Estimate]] = [
        [name, *(measures.source_within(observations, rank, recalled) for rank in (1, 5, 50))]
        for name, recalled in (("recall", True), ("re-ranked", False))
    ]
    return Table("Share of derivatives whose source is among the first", ("", "1", "5", "50"), rows)


def _comparison(rows: Sequence[PolicyShares]) -> Table:
    return Table(
        "Mean share of the credit, and the error of shares read as probabilities (ECE: of derivatives of one work, "
        "copies and foreign images; all: compositions and reconstructions too)",
        (
            "policy",
            "to the source",
            "copies",
            "foreign unattributed",
            "absent AUC",
            "composition error",
            "ECE",
            "ECE, all",
        ),
        [
            [
                shares.row.name,
                measures.credit(shares, measures.is_single),
                measures.credit(shares, measures.is_kind(COPY)),
                measures.unattributed(shares, measures.is_photo_or_noise),
                measures.absent_auc(shares),
                measures.composition_error(shares),
                round(measures.reliability(shares).error, 3),
                round(measures.reliability(shares, measures.is_any).error, 3),
            ]
            for shares in rows
        ],
    )


def _by_kind(main: PolicyShares, bare: PolicyShares, paper: PolicyShares) -> Table:
    unseen = _fitted_kinds(main.observations, fitted=False)
    return Table(
        f"Mean share of the true source, by kind; never fitted on: {', '.join(unseen)}, and reconstructions",
        ("kind", paper.row.name, bare.row.name, main.row.name, "unattributed"),
        [
            [kind, *(measures.credit(shares, measures.is_kind(kind)) for shares in (paper, bare, main)),
             measures.unattributed(main, measures.is_kind(kind))]
            for kind in kinds_of(main.observations, lambda observation: len(observation.sources) == 1)
        ],
    )  # fmt: skip


def _composed(main: PolicyShares, bare: PolicyShares, paper: PolicyShares) -> Table:
    return Table(
        "Images of several works: mean difference of known share and credit by policy; and with the last policy, "
        "how many sources but the largest receive half of their share or more, credit to all sources, and unattributed",
        ("kind", paper.row.name, bare.row.name, main.row.name, "found", "to all sources", "unattributed"),
        [
            [kind, *(measures.composition_error(shares, measures.is_kind(kind)) for shares in (paper, bare, main)),
             measures.further_sources_found(main, measures.is_kind(kind)),
             measures.credit(main, measures.is_kind(kind)),
             measures.unattributed(main, measures.is_kind(kind))]
            for kind in kinds_of(main.observations, measures.is_composed)
        ],
    )  # fmt: skip


def _foreign(main: PolicyShares, paper: PolicyShares) -> Table:
    return Table(
        "Images without a source: unattributed share",
        ("kind", paper.row.name, main.row.name, "absent AUC"),
        [
            [
                _TITLES[kind],
                measures.unattributed(paper, measures.is_kind(kind)),
                measures.unattributed(main, measures.is_kind(kind)),
                measures.absent_auc(main, measures.is_kind(kind)),
            ]
            for kind in _foreign_kinds(main)
        ],
    )


def _foreign_kinds(main: PolicyShares) -> list[str]:
    shown = kinds_of(main.observations, measures.is_foreign)
    return [kind for kind in FOREIGN_KINDS if kind in shown]


def _strength_plot(main: PolicyShares, paper: PolicyShares) -> Plot:
    def paint(axes: Axes) -> None:
        kinds = kinds_of(main.observations, measures.is_single)
        for kind, (marker, colour) in zip(kinds, product("os^", COLOURS), strict=False):
            means = [measures.credit(main, _cell(kind, strength)).value for strength in STRENGTHS]
            style = "-" if kind in FIT_KINDS else "--"
            axes.plot(STRENGTHS, means, style, color=colour, marker=marker, label=kind)
        flat = [measures.credit(paper, _strength(strength)).value for strength in STRENGTHS]
        axes.plot(STRENGTHS, flat, ":", color="#999999", label=paper.row.name)
        axes.set(xlabel="strength", ylabel="share of the true source", ylim=(0, 1), xticks=STRENGTHS)
        axes.legend(ncols=2, fontsize=8, loc="lower left")

    return Plot("Share of the true source by strength of the change; dashed kinds were never fitted on.", draw(paint))


def _cell(kind: str, strength: int) -> measures.Selector:
    return lambda observation: observation.query.kind == kind and observation.query.strength == strength


def _strength(strength: int) -> measures.Selector:
    return lambda observation: observation.single and observation.query.strength == strength


def _trade_off(main: PolicyShares, bare: PolicyShares) -> Plot:
    def paint(axes: Axes) -> None:
        for kind, colour in zip(_foreign_kinds(main), COLOURS, strict=False):
            cost, kept = trade_off(main, bare, kind)
            axes.plot(100 * cost, 100 * kept, color=colour, label=_TITLES[kind])
        axes.set(
            xlabel="points of credit taken from true sources", ylabel="% unattributed", xlim=(0, 30), ylim=(0, 101)
        )
        axes.legend(fontsize=8, loc="lower right")

    return Plot(
        "What it costs true sources to leave foreign images unattributed, as its odds are multiplied.", draw(paint)
    )


def trade_off(main: PolicyShares, bare: PolicyShares, kind: str) -> tuple[measures.Values, measures.Values]:
    """Return the credit that derivatives lose and the unattributed share of images of this kind, (61,) each.

    The residual's logit is shifted from -12 to 12.
    """
    unattributed = np.clip(main.unattributed, 1e-12, 1 - 1e-12)
    logit = np.log(unattributed) - np.log1p(-unattributed)
    single = measures.rows_of(main.observations, measures.is_single)
    foreign = measures.rows_of(main.observations, measures.is_kind(kind))
    moved = 1 / (1 + np.exp(-(logit + np.linspace(-12, 12, 61)[:, None])))
    cost = (moved[:, single] * bare.to_sources[single]).mean(axis=1)
    return cost, moved[:, foreign].mean(axis=1)


def _reliability_plot(reliability: measures.Reliability) -> Plot:
    def paint(axes: Axes) -> None:
        some = reliability.count > 0
        axes.plot((0, 1), (0, 1), ":", color="#999999")
        axes.plot(reliability.claimed[some], reliability.true[some], marker="o")
        for x, y, count in zip(reliability.claimed[some], reliability.true[some], reliability.count[some], strict=True):
            axes.annotate(f"{count:.0f}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
        axes.set(xlabel="largest share", ylabel="how often it is right", xlim=(0, 1), ylim=(0, 1.02))

    return Plot(
        "Shares read as probabilities, of derivatives of one work, copies and foreign images: on the dotted line they "
        "mean what they say. Numbers are images.",
        draw(paint, 4.2, 3.6),
    )


def figures_by_cell(main: PolicyShares) -> Mapping[str, float]:
    """Return the mean credit of each kind at each strength, by flat name."""
    return {
        f"credit_to_source_{kind}_{strength}": round(measures.credit(main, _cell(kind, strength)).value, 4)
        for kind in _credit_by_kind(main)
        for strength in STRENGTHS
    }
