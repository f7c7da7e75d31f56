"""The benchmarks as the report calls them."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks import Settings
from evaluation.report.sections import Section


def known_source(settings: Settings) -> Sequence[Section]:
    """Known sources."""
    from evaluation.known_source.run import known_source

    return [known_source(settings.profile, settings.short)]


def criteria(settings: Settings) -> Sequence[Section]:
    """The paper's criteria."""
    from evaluation.criteria.run import criteria

    return criteria(settings.profile, settings.short, settings.work, settings.fashion)


def counterfactual(settings: Settings) -> Sequence[Section]:
    """Causes."""
    from evaluation.counterfactual.section import counterfactual

    return [counterfactual(settings.profile, settings.short, settings.work)]


def duplicates(settings: Settings) -> Sequence[Section]:
    """Near-copies."""
    from evaluation.duplicates.run import duplicates

    return [duplicates(settings.profile, settings.short)]
