"""From an index to a policy's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluation.calibration.fit import bootstrap_gates, choose_gate, fit_virtual
from evaluation.calibration.likelihood import contributor_log_shares, examples_of, mean_log_likelihood
from evaluation.calibration.policy_file import Extra, Fitted, absent_share, data_hash, policy_text
from evaluation.known_source.observed import observe
from evaluation.known_source.search import DEPTH
from evaluation.known_source.spec import FIT, SHORT_FIT, SHORT_TEST, TEST
from gmvaluator.errors import Conflict, InvalidPolicy
from gmvaluator.models.profiles import profile_identity
from gmvaluator.valuation.policy import Policy, load_policy

CONTRIBUTORS = 50
REFITS, SHORT_REFITS = 100, 4
"""Fits to resamples of whole artists: the policy's intervals are made of them."""


def calibrate_policy(
    reference: str, location: str | Path, profile: str, short: bool, folder: Path, extra: Extra
) -> tuple[Path, dict[str, float]]:
    """Fit, test and write `folder/REFERENCE.toml`; returns the file and the figures.

    Raises Conflict if that version is there with other settings: postings name it, so it never changes. Raises
    InvalidPolicy for a reference that is none, MissingIndex, ProfileMismatch.
    """
    check_reference(reference)
    fit = observe(SHORT_FIT if short else FIT, location, profile)
    test = observe(replace(SHORT_TEST if short else TEST, reconstructed=0), location, profile)
    plain = Policy.from_parameters({"policy": reference, "depth": DEPTH, "k": CONTRIBUTORS, "temperature": "1"})
    # Each work for itself: fitted to groups, the temperature would not tell a source from its twins inside one.
    known, unseen = examples_of(fit, plain), examples_of(test, plain)
    gate, virtual = choose_gate(known), fit_virtual(known)
    fitted = Fitted(
        data_hash(fit),
        len(fit),
        absent_share(known),
        gate.log_likelihood(known),
        gate.log_likelihood(unseen),
        mean_log_likelihood(unseen, contributor_log_shares(unseen.distances, 1.0), None),
    )
    refits = bootstrap_gates(known, gate, SHORT_REFITS if short else REFITS)
    text = policy_text(reference, profile_identity(profile).hash, DEPTH, CONTRIBUTORS, gate, fitted, refits, extra)
    path = write_policy(folder / f"{reference}.toml", text)
    load_policy(reference, folder)
    return path, {
        "fit_log_likelihood": fitted.fit_log_likelihood,
        "test_log_likelihood": fitted.test_log_likelihood,
        "test_log_likelihood_virtual_contributor": virtual.log_likelihood(unseen),
        "test_log_likelihood_paper": fitted.paper_log_likelihood,
        "temperature": gate.temperature,
        "temperature_growth": gate.growth,
        "absent_share": fitted.absent_share,
    }


def check_reference(reference: str) -> None:
    """Raises InvalidPolicy unless it is NAME@N and not the paper's."""
    Policy.from_parameters({"policy": reference, "depth": 1, "k": 1, "temperature": "1"})
    if reference.startswith("paper@"):
        raise InvalidPolicy("a fitted policy cannot be called paper: that name is for equations 4-6 to the letter")


def write_policy(path: Path, text: str) -> Path:
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise Conflict(f"{path} is there already and says otherwise: a policy never changes, give the next version")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)
    return path
