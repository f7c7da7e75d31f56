"""The whole benchmark: index, ask, divide, measure."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.calibration.fit import fit_virtual
from evaluation.calibration.likelihood import examples_of
from evaluation.known_source.observed import index_sample, observe
from evaluation.known_source.rows import ablations, by_policy, divided, uniform, without_reranking
from evaluation.known_source.section import figures_by_cell, known_source_section
from evaluation.known_source.spec import FIT, SHORT_FIT, SHORT_TEST, TEST
from evaluation.sections import Section
from gmvaluator.policy import load_policy

PAPER, CALIBRATED = "paper@1", "calibrated@1"


def known_source(profile: str, short: bool, policies: Sequence[str] = ()) -> Section:
    """The section; policies: NAME@N to compare besides the paper's and the calibrated one."""
    paper, calibrated = load_policy(PAPER), load_policy(CALIBRATED)
    with tempfile.TemporaryDirectory() as folder:
        location = index_sample(Path(folder), profile)
        fit = observe(SHORT_FIT if short else FIT, location, profile)
        test = observe(SHORT_TEST if short else TEST, location, profile)
    virtual = fit_virtual(examples_of(fit, calibrated))
    main = divided(by_policy(calibrated), test)
    bare = divided(by_policy(replace(calibrated, residual=None)), test)
    plain = divided(by_policy(paper), test)
    rows = [
        divided(uniform(paper.k), test),
        divided(without_reranking(paper), test),
        plain,
        *(divided(row, test) for row in ablations(calibrated, virtual)),
        main,
        *(divided(by_policy(load_policy(reference)), test) for reference in policies),
    ]
    section = known_source_section(test, rows, main, bare, plain)
    return replace(section, figures={**section.figures, **figures_by_cell(main)})
