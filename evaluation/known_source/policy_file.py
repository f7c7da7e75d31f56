"""Calibration: a policy is fitted on an index and written as a TOML file that records its data and likelihoods."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.known_source.fit import (
    Examples,
    GateFit,
    bootstrap_gates,
    choose_gate,
    contributor_log_shares,
    examples_of,
    fit_virtual,
    mean_log_likelihood,
)
from evaluation.known_source.observations import DEPTH, Observation, observe
from evaluation.known_source.queries import FIT, SHORT_FIT, SHORT_TEST, TEST
from gmvaluator.errors import Conflict, InvalidPolicy
from gmvaluator.files import atomic_write
from gmvaluator.ids import sha256_hex
from gmvaluator.models.profiles import profile_identity
from gmvaluator.valuation.policy import Policy, load_policy


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit, as the policy's file records it. Log-likelihoods are means over images; those of `paper` are for scale."""

    data_sha256: str
    images: int
    absent_share: float
    fit_log_likelihood: float
    test_log_likelihood: float
    paper_log_likelihood: float


@dataclass(frozen=True, slots=True)
class Extra:
    """Settings that are chosen, not fitted. groups: see `Policy`. hold_above: decimal text, or None to hold nothing
    back."""

    groups: str | None = None
    hold_above: str | None = None


NOTHING_EXTRA = Extra()


def data_hash(observations: Sequence[Observation]) -> str:
    """Return the SHA-256 over every image's pixels, its sources and their shares, in order."""
    digest = hashlib.sha256()
    for observation in observations:
        digest.update(sha256_hex(observation.query.image.tobytes()).encode())
        digest.update(repr([(str(work), weight) for work, weight in observation.sources.items()]).encode())
    return digest.hexdigest()


def policy_text(
    reference: str,
    profile_hash: str,
    depth: int,
    k: int,
    gate: GateFit,
    fitted: Fitted,
    refits: Sequence[GateFit] = (),
    extra: Extra = NOTHING_EXTRA,
) -> str:
    """Return the file's text for `gmvaluator.valuation.policy`; numbers have six decimals.

    refits: fits of the same gate to resamples, from which intervals are made.
    """
    return f"""policy = "{reference}"
description = "Fitted by `gmvaluator calibrate` to derivatives of known works and to foreign images."
profile = "{profile_hash}"
depth = {depth}
k = {k}
temperature = "{gate.temperature:.6f}"
temperature_growth = "{gate.growth:.6f}"
{_groups(extra)}
[residual]
bias = "{gate.bias:.6f}"
ranks = {_ranks(gate)}

[fit]
data_sha256 = "{fitted.data_sha256}"
images = {fitted.images}
absent_share = {fitted.absent_share:.4f}
fit_log_likelihood = {fitted.fit_log_likelihood:.6f}
test_log_likelihood = {fitted.test_log_likelihood:.6f}
paper_log_likelihood = {fitted.paper_log_likelihood:.6f}
{_uncertainty(refits, extra)}"""


def _ranks(gate: GateFit) -> str:
    pairs = zip(gate.ranks, gate.coefficients, strict=True)
    return "{ " + ", ".join(f'{rank} = "{value:.6f}"' for rank, value in pairs) + " }"


def _temperature(gate: GateFit) -> str:
    return f'temperature = "{gate.temperature:.6f}", temperature_growth = "{gate.growth:.6f}"'


def _residual(gate: GateFit) -> str:
    return f'{{ bias = "{gate.bias:.6f}", ranks = {_ranks(gate)} }}'


def _uncertainty(refits: Sequence[GateFit], extra: Extra) -> str:
    if not refits:
        return ""
    lines = [f"    {{ {_temperature(fit)}, residual = {_residual(fit)} }}," for fit in refits]
    held = [] if extra.hold_above is None else [f'hold_above = "{extra.hold_above}"']
    return "\n".join(["", "[uncertainty]", *held, "replicates = [", *lines, "]", ""])


def absent_share(examples: Examples) -> float:
    """Return the share of images without a source, which the gate takes as its prior."""
    return float(examples.absent.mean())


def _groups(extra: Extra) -> str:
    return "" if extra.groups is None else f'groups = "{extra.groups}"\n'


CONTRIBUTORS = 50
REFITS, SHORT_REFITS = 100, 4
"""Number of fits to resamples of whole artists, from which the policy's intervals are made."""


def calibrate_policy(
    reference: str, location: str | Path, profile: str, short: bool, folder: Path, extra: Extra
) -> tuple[Path, dict[str, float]]:
    """Fit, test and write `folder/REFERENCE.toml`; return the file and the figures.

    Raises Conflict if that version exists with other settings: postings name it, so it never changes. Raises
    InvalidPolicy for an invalid reference, MissingIndex, ProfileMismatch.
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
    """Raise InvalidPolicy unless the reference is NAME@N and not the paper's."""
    Policy.from_parameters({"policy": reference, "depth": 1, "k": 1, "temperature": "1"})
    if reference.startswith("paper@"):
        raise InvalidPolicy("a fitted policy cannot be called paper: that name is for equations 4-6 to the letter")


def write_policy(path: Path, text: str) -> Path:
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise Conflict(f"{path} is there already and says otherwise: a policy never changes, give the next version")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text)
    return path
