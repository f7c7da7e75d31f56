"""The known-source benchmark: index the sample, query it, divide the credit, measure."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.known_source.fit import Examples, choose_gate, examples_of, fit_temperature, fit_virtual
from evaluation.known_source.observations import Observation, index_sample, observe, require_foreign, require_sample
from evaluation.known_source.owner_effects import quality_effects, quality_figures, quality_table
from evaluation.known_source.policies import (
    Fits,
    ablations,
    apply_policy,
    by_policy,
    decimal,
    parts_ablations,
    uniform,
    without_reranking,
    without_unattributed,
)
from evaluation.known_source.queries import (
    FIT,
    FOURTH,
    SHORT_FIT,
    SHORT_FOURTH,
    SHORT_TEST,
    SHORT_THIRD,
    TEST,
    THIRD,
    Plan,
)
from evaluation.known_source.section import figures_by_cell, known_source_section
from evaluation.report.sections import Section
from gmvaluator.models.profiles import profile_identity
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.residual import Gate

PAPER, WHOLE_IMAGES, CALIBRATED = "paper@1", "calibrated@2", "calibrated@3"
DRAWS: dict[str, tuple[Plan, Plan]] = {
    "second": (TEST, SHORT_TEST),
    "third": (THIRD, SHORT_THIRD),
    "fourth": (FOURTH, SHORT_FOURTH),
}
"""Images that are measured, by name of the draw, with their short version."""


def known_source(
    profile: str,
    short: bool,
    policies: Sequence[str] = (),
    location: str | Path | None = None,
    draw: str = "second",
    foreign: Path | None = None,
) -> Section:
    """Run the benchmark and return its section of the report.

    policies: NAME@N to compare besides the paper's and the calibrated one. location: an index that holds the sample;
    None to make one. draw: one of DRAWS. foreign: folder of images without a source; None for the shipped ones. Raises
    ProfileMismatch, InvalidPolicy, InvalidInput, PreconditionFailed, before anything takes minutes.
    """
    compared = [load_policy(reference) for reference in policies]
    profile_identity(profile)
    if foreign is not None:
        require_foreign(foreign)
    if location is not None:
        require_sample(location, short)
    shipped = load_policy(CALIBRATED)
    fits_here = shipped.profile != profile_identity(profile).hash
    # The images of the fit are needed only for a profile that no policy was shipped for.
    fit, test = _observed(profile, short, location, DRAWS[draw][short], foreign, fits_here)
    paper = load_policy(PAPER)
    if fits_here:
        known = examples_of(fit, replace(shipped, groups=None, parts=None))
        calibrated = _calibrated(shipped, known)
        variants = ablations(calibrated, Fits(fit_temperature(known), fit_virtual(known)))
    else:
        calibrated = shipped
        # Its distances are those of version 3 of the profile, so that the numbers of that policy still fit them.
        variants = [by_policy(load_policy(WHOLE_IMAGES)), *parts_ablations(calibrated)]
    main = apply_policy(by_policy(calibrated), test)
    bare = apply_policy(without_unattributed(calibrated), test)
    plain = apply_policy(by_policy(paper), test)
    rows = [
        apply_policy(uniform(paper.k), test),
        apply_policy(without_reranking(paper), test),
        plain,
        *(apply_policy(row, test) for row in variants),
        main,
        *(apply_policy(by_policy(policy), test) for policy in compared),
    ]
    section = known_source_section(test, rows, main, bare, plain)
    effects = quality_effects(calibrated, test)
    origin = _origin(test, foreign)
    return replace(
        section,
        text=[*section.text, f"Images without a source are {origin}."],
        details={**section.details, "draw": draw, "foreign": origin},
        figures={**section.figures, **quality_figures(effects), **figures_by_cell(main)},
        tables=[*section.tables, quality_table(effects)],
    )


def _observed(
    profile: str, short: bool, location: str | Path | None, plan: Plan, foreign: Path | None, fits_here: bool
) -> tuple[list[Observation], list[Observation]]:
    """Return the fit (if `fits_here`) and the test observations, from a temporary index if none is given."""
    if location is None:
        with tempfile.TemporaryDirectory() as folder:
            return _observed(profile, short, index_sample(Path(folder), profile, short), plan, foreign, fits_here)
    fit = observe(SHORT_FIT if short else FIT, location, profile, short) if fits_here else []
    return fit, observe(plan, location, profile, short, foreign)


def _origin(observations: Sequence[Observation], foreign: Path | None) -> str:
    """Describe the images without a source."""
    count = sum(not observation.sources for observation in observations)
    if foreign is None:
        return f"{count:,}: the few that are shipped, and noise (--foreign FOLDER takes the larger set)"
    return f"{count:,}: those of the folder {foreign.name}, and noise"


def _calibrated(shipped: Policy, known: Examples) -> Policy:
    """Return a policy of whole images, fitted to images of the fit."""
    gate = choose_gate(known)
    ranks = tuple((rank, decimal(value)) for rank, value in zip(gate.ranks, gate.coefficients, strict=True))
    return replace(
        shipped,
        name="fitted-here",
        version=1,
        temperature=decimal(gate.temperature),
        growth=decimal(gate.growth),
        residual=Gate(decimal(gate.bias), ranks),
        profile=None,
        uncertainty=None,
        parts=None,
        background=None,
    )
