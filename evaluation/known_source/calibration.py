"""Calibration: a policy is fitted to derivatives of an operator's own works.

It is written unless it is worse than the one in use on works that were held out.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluation.images.sample import Work
from evaluation.known_source.fit import (
    Examples,
    bootstrap_gates,
    choose_gate,
    contributor_log_shares,
    examples_of,
    fit_virtual,
    mean_log_likelihood,
)
from evaluation.known_source.observations import DEPTH, Observation, observed, search_all
from evaluation.known_source.own_works import OwnWorks
from evaluation.known_source.parts_fit import (
    PARAMETERS,
    bootstrap_parts,
    fit_parts,
    parts_examples,
    plain_policy,
)
from evaluation.known_source.policies import apply_policy, by_policy
from evaluation.known_source.policy_file import Extra, Fitted, PolicyFit, policy_text, write_policy
from evaluation.known_source.queries import (
    FIT,
    PARTS_FIT,
    SHORT_FIT,
    SHORT_PARTS_FIT,
    SHORT_TEST,
    TEST,
    Plan,
    make_queries,
)
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ids import sha256_hex
from gmvaluator.ports import Models
from gmvaluator.valuation.policy import Policy

CONTRIBUTORS = 50
REFITS, SHORT_REFITS = 100, 4
"""Number of fits to resamples of whole owners, from which the policy's intervals are made."""

MIN_FOUND = 0.25
"""Minimum share of changed works that have to be among the candidates; the fit takes a work that is not for absent."""

FLOOR = 1e-6
"""Smallest probability that a likelihood counts, as in `mean_log_likelihood`."""


@dataclass(frozen=True, slots=True)
class Index:
    """A collection to calibrate on, with the models that built it."""

    location: str | Path
    collection: str
    models: Models


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration. file: None if the fitted policy is worse than the one in use, so that it was not written.

    in_use: reference of the policy that it was compared with.
    """

    file: Path | None
    in_use: str
    figures: dict[str, float]


def calibrate(
    path: Path, index: Index, own: OwnWorks, in_use: Sequence[Policy], short: bool, extra: Extra
) -> Calibration:
    """Fit a policy to changed works and foreign images, test it on held-out ones, and write its file.

    path: NAME@N.toml. in_use: policies to compare with, of which the likeliest counts. Raises PreconditionFailed if the
    index does not find the works.
    """
    counts_parts = bool(index.models.identity.windows)
    plan = (SHORT_PARTS_FIT if short else PARTS_FIT) if counts_parts else SHORT_FIT if short else FIT
    fit = _observe(plan, own.fit, index, own)
    test = _observe(replace(SHORT_TEST if short else TEST, reconstructed=0), own.test, index, own)
    check_found(fit)
    refits = SHORT_REFITS if short else REFITS
    fitting = fit_parts_policy(fit, test, refits) if counts_parts else fit_gate_policy(fit, test, refits)
    text = policy_text(
        path.stem,
        index.models.identity.hash,
        DEPTH,
        CONTRIBUTORS,
        fitting.fit,
        fitting.fitted,
        fitting.refits,
        extra,
    )
    policy = Policy.from_parameters(tomllib.loads(text))
    likelihoods = {other.reference: held_out_log_likelihood(other, test) for other in in_use}
    best = max(likelihoods, key=lambda reference: likelihoods[reference])
    likelihood = held_out_log_likelihood(policy, test)
    figures = {
        "held_out_log_likelihood": likelihood,
        "held_out_log_likelihood_in_use": likelihoods[best],
        "fit_log_likelihood": fitting.fitted.fit_log_likelihood,
        "test_log_likelihood": fitting.fitted.test_log_likelihood,
        "test_log_likelihood_paper": fitting.fitted.paper_log_likelihood,
        "absent_share": fitting.fitted.absent_share,
        **fitting.figures,
    }
    return Calibration(None if likelihood < likelihoods[best] else write_policy(path, text), best, figures)


@dataclass(frozen=True, slots=True)
class Fitting:
    """A fit with what is recorded of it. figures: further ones for the report."""

    fit: PolicyFit
    refits: Sequence[PolicyFit]
    fitted: Fitted
    figures: dict[str, float]


def fit_gate_policy(fit: Sequence[Observation], test: Sequence[Observation], refits: int) -> Fitting:
    """Fit temperature and gate to distances of whole images."""
    plain = Policy.from_parameters({"policy": "plain@1", "depth": DEPTH, "k": CONTRIBUTORS, "temperature": "1"})
    # Each work for itself: fitted to groups, the temperature would not tell a source from its twins inside one.
    known, unseen = examples_of(fit, plain), examples_of(test, plain)
    gate = choose_gate(known)
    fitted = Fitted(
        data_hash(fit),
        len(fit),
        absent_share(known),
        gate.log_likelihood(known),
        gate.log_likelihood(unseen),
        _paper_log_likelihood(test),
    )
    figures = {
        "test_log_likelihood_virtual_contributor": fit_virtual(known).log_likelihood(unseen),
        "temperature": gate.temperature,
        "temperature_growth": gate.growth,
    }
    return Fitting(gate, bootstrap_gates(known, gate, refits), fitted, figures)


def fit_parts_policy(fit: Sequence[Observation], test: Sequence[Observation], refits: int) -> Fitting:
    """Fit weights by distance, by windows and by verified regions."""
    plain = plain_policy(DEPTH, CONTRIBUTORS)
    known, unseen = parts_examples(fit, plain), parts_examples(test, plain)
    rule = fit_parts(known)
    fitted = Fitted(
        data_hash(fit),
        len(fit),
        float(known.absent.mean()),
        rule.log_likelihood(known),
        rule.log_likelihood(unseen),
        _paper_log_likelihood(test),
    )
    figures = dict(zip(PARAMETERS, rule.numbers, strict=True))
    return Fitting(rule, bootstrap_parts(known, rule, refits), fitted, figures)


def _paper_log_likelihood(observations: Sequence[Observation]) -> float:
    plain = Policy.from_parameters({"policy": "plain@1", "depth": DEPTH, "k": CONTRIBUTORS, "temperature": "1"})
    examples = examples_of(observations, plain)
    return mean_log_likelihood(examples, contributor_log_shares(examples.distances, 1.0), None)


def _observe(plan: Plan, works: Sequence[Work], index: Index, own: OwnWorks) -> list[Observation]:
    plan = replace(plan, owners=frozenset(work.owner_id for work in works))
    queries = make_queries(plan, works, own.folder, own.indexed, own.foreign)
    return observed(queries, own.ids, search_all(index.location, index.models, queries, index.collection))


def check_found(observations: Sequence[Observation]) -> None:
    """Raise PreconditionFailed if too few changed works are among the candidates of their own derivatives."""
    ranks = [rank for observation in observations for rank in observation.ranks]
    recalled = sum(rank < DEPTH for rank in ranks)
    if recalled < MIN_FOUND * len(ranks):
        raise PreconditionFailed(
            f"the index finds {recalled} of {len(ranks)} works from which images were made: a policy fitted to this "
            "would leave everything unattributed; check the index by `gmvaluator index verify`"
        )


def held_out_log_likelihood(policy: Policy, observations: Sequence[Observation]) -> float:
    """Return the mean over images of Σ_i s_i log p_i, where s are the known shares and p those that the policy gives.

    p is the share of the source's near-duplicates together, so that policies that group them and policies that do not
    are measured alike. A source that was not recalled counts as unattributed.
    """
    divisions = apply_policy(by_policy(policy), observations).divisions
    likelihoods = []
    for observation, division in zip(observations, divisions, strict=True):
        retrieval = observation.retrieval
        groups = dict(zip(retrieval.reranked, retrieval.groups or retrieval.reranked, strict=True))
        by_group: dict[object, float] = {}
        for work, share in division.shares.items():
            by_group[groups[work]] = by_group.get(groups[work], 0.0) + share
        absent, value = 1.0, 0.0
        for source, weight in observation.sources.items():
            if source in groups:
                absent -= weight
                value += weight * np.log(max(by_group.get(groups[source], 0.0), FLOOR))
        likelihoods.append(value + max(absent, 0.0) * np.log(max(division.unattributed, FLOOR)))
    return float(np.mean(likelihoods))


def absent_share(examples: Examples) -> float:
    """Return the share of images without a source, which the gate takes as its prior."""
    return float(examples.absent.mean())


def data_hash(observations: Sequence[Observation]) -> str:
    """Return the SHA-256 over every image's pixels, its sources and their shares, in order."""
    digest = hashlib.sha256()
    for observation in observations:
        digest.update(sha256_hex(observation.query.image.tobytes()).encode())
        digest.update(repr([(str(work), weight) for work, weight in observation.sources.items()]).encode())
    return digest.hexdigest()
