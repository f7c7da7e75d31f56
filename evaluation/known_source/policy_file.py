"""The TOML file of a fitted policy, which records its data and likelihoods."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gmvaluator.errors import Conflict, InvalidPolicy, PreconditionFailed
from gmvaluator.files import atomic_write
from gmvaluator.valuation.policy import Policy


class PolicyFit(Protocol):
    """A fit of a policy's numbers."""

    def settings(self) -> Mapping[str, Any]:
        """Return the settings of a policy file: decimal texts, and tables of them."""


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


def policy_text(
    reference: str,
    profile_hash: str,
    depth: int,
    k: int,
    fit: PolicyFit,
    fitted: Fitted,
    refits: Sequence[PolicyFit] = (),
    extra: Extra = NOTHING_EXTRA,
) -> str:
    """Return the file's text for `gmvaluator.valuation.policy`; numbers have six decimals.

    refits: fits of the same kind to resamples, from which intervals are made.
    """
    settings = fit.settings()
    tables = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in settings.items() if name not in tables}
    return f"""policy = "{reference}"
description = "Fitted by `gmvaluator calibrate` to derivatives of known works and to foreign images."
profile = "{profile_hash}"
depth = {depth}
k = {k}
{_lines(plain)}
{_groups(extra)}
{"".join(f"[{name}]{chr(10)}{_lines(table)}{chr(10)}{chr(10)}" for name, table in tables.items())}[fit]
data_sha256 = "{fitted.data_sha256}"
images = {fitted.images}
absent_share = {fitted.absent_share:.4f}
fit_log_likelihood = {fitted.fit_log_likelihood:.6f}
test_log_likelihood = {fitted.test_log_likelihood:.6f}
paper_log_likelihood = {fitted.paper_log_likelihood:.6f}
{_uncertainty(refits, extra)}"""


def _lines(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    """Return a decimal text, a whole number, or a table of them in one line."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_value(inner)}" for name, inner in value.items()) + " }"
    return f'"{value}"'


def _uncertainty(refits: Sequence[PolicyFit], extra: Extra) -> str:
    if not refits:
        return ""
    lines = [f"    {_value(fit.settings())}," for fit in refits]
    held = [] if extra.hold_above is None else [f'hold_above = "{extra.hold_above}"']
    return "\n".join(["", "[uncertainty]", *held, "replicates = [", *lines, "]", ""])


def _groups(extra: Extra) -> str:
    return "" if extra.groups is None else f'groups = "{extra.groups}"\n'


def check_reference(reference: str, extra: Extra = NOTHING_EXTRA) -> None:
    """Raise InvalidPolicy unless the reference is NAME@N and not the paper's, and `extra` can be written."""
    settings = {"policy": reference, "depth": 1, "k": 1, "temperature": "1"}
    if extra.hold_above is not None:
        Policy.from_parameters(
            {**settings, "uncertainty": {"count": 1, "sha256": "0" * 64, "hold_above": extra.hold_above}}
        )
    Policy.from_parameters(settings)
    if reference.startswith("paper@"):
        raise InvalidPolicy("a fitted policy cannot be called paper: that name is for equations 4-6 to the letter")


def check_new(path: Path) -> None:
    """Raise Conflict if the file exists, because postings name it, PreconditionFailed if it cannot be written."""
    if path.exists():
        name, _, version = path.stem.rpartition("@")
        raise Conflict(
            f"{path} exists, and a policy never changes: give the next version, --policy {name}@{int(version) + 1}"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PreconditionFailed(f"{folder} is not a folder that can be written to: name another by --out")


def write_policy(path: Path, text: str) -> Path:
    """Write a policy's file. Raises Conflict if it exists with other settings."""
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise Conflict(f"{path} is there already and says otherwise: a policy never changes, give the next version")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text)
    return path
