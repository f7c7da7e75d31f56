"""A fitted policy as a TOML file, with what it was fitted on and how likely it makes what was known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.calibration.fit import GateFit
from evaluation.calibration.likelihood import Examples
from evaluation.known_source.observed import Observation
from gmvaluator.ids import sha256_hex


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the file says of the fit. Log-likelihoods are means over images; those of `paper` for scale."""

    data_sha256: str
    images: int
    absent_share: float
    fit_log_likelihood: float
    test_log_likelihood: float
    paper_log_likelihood: float


@dataclass(frozen=True, slots=True)
class Extra:
    """Settings that are not fitted. groups: see `Policy`. hold_above: decimal text, or nothing is held back."""

    groups: str | None = None
    hold_above: str | None = None


NOTHING_EXTRA = Extra()


def data_hash(observations: Sequence[Observation]) -> str:
    """SHA-256 over every image's pixels, its sources and their shares, in order."""
    found = hashlib.sha256()
    for one in observations:
        found.update(sha256_hex(one.query.image.tobytes()).encode())
        found.update(repr([(str(work), weight) for work, weight in one.sources.items()]).encode())
    return found.hexdigest()


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
    """The file, to be read by `gmvaluator.valuation.policy`; numbers have six decimals.

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
    """How much of the images has no source: the gate takes it for what it will meet."""
    return float(examples.absent.mean())


def _groups(extra: Extra) -> str:
    return "" if extra.groups is None else f'groups = "{extra.groups}"\n'
