"""Policies: named, versioned ways to turn distances and a quality into credits.

A policy is a file `NAME@N.toml`. The operator binds one to a generator; every posting names it and keeps its
parameters in the evidence. `paper@1` is equations 4-6 to the letter; others may set a temperature, a residual and how
far quality counts. What a policy was fitted on stands in its file's `fit`, which valuing does not read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any

from gmvaluator.accounts import UNATTRIBUTED
from gmvaluator.errors import InvalidPolicy, PreconditionFailed
from gmvaluator.valuation.residual import Residual, number, read_residual
from gmvaluator.valuation.uncertainty import Hidden, Intervals, Uncertainty, read_uncertainty
from gmvaluator.valuation.weights import (
    MILLION,
    divide,
    issued_micros,
    shares,
    similarity_weights,
    similarity_weights_roughly,
)

GROUP_WEIGHTS = ("nearest", "first")
"""Whose distance a group of near-copies has: its nearest candidate's, or that of the one indexed first."""

_PACKAGED = Path(__file__).parent / "policies"
_REFERENCE = re.compile(r"[a-z][a-z0-9-]{0,39}@[1-9][0-9]{0,5}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SETTINGS = {
    "policy",
    "description",
    "depth",
    "k",
    "temperature",
    "temperature_growth",
    "residual",
    "quality",
    "groups",
    "profile",
    "uncertainty",
    "fit",
}
_MAX_CONTRIBUTORS = 1_000
_MAX_DEPTH = 10_000
_MAX_GROWTH = 10


@dataclass(frozen=True, slots=True)
class Valuation:
    """One generated image's credits. `credit_micros[i]` and `shares[i]` belong to contributor i as given.

    sum(credit_micros) + unattributed_micros == issued_micros, always.
    """

    issued_micros: int
    credit_micros: tuple[int, ...]
    shares: tuple[float, ...]
    unattributed_micros: int
    unattributed_share: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How many neighbours are asked for, how many are paid, and how distance becomes weight.

    depth: candidates recalled before re-ranking. k: contributors paid at most. temperature: τ in
    exp(-d / τ); 1 is the paper's, smaller pays the nearest more. growth: by how much τ grows for each unit of distance
    (`valuation.similarity_weights`); 0 is the paper's. residual: what nobody earns; None is the paper's
    nothing. quality_floor and quality_cap: millionths between which an image's quality counts; 0 and one million are
    the paper's, equal ones leave quality out. profile: hash of the one profile whose distances it is for, or None.
    groups: whether near-copies are one contributor, which weighs what its "nearest" member weighs, or its "first"; None
    is the paper's, every work for itself. uncertainty: how unsure its fit is; None if nobody knows.
    """

    name: str
    version: int
    depth: int
    k: int
    temperature: Decimal
    residual: Residual | None = None
    quality_floor: int = 0
    quality_cap: int = MILLION
    profile: str | None = None
    growth: Decimal = Decimal(0)
    groups: str | None = None
    uncertainty: Uncertainty | None = None

    @property
    def reference(self) -> str:
        """`NAME@N`, as generators and postings name it."""
        return f"{self.name}@{self.version}"

    def parameters(self) -> dict[str, Any]:
        """Everything that value() depends on, as plain JSON, for the evidence. What is the paper's goes unsaid."""
        said: dict[str, Any] = {
            "policy": self.reference,
            "depth": self.depth,
            "k": self.k,
            "temperature": str(self.temperature),
        }
        if self.growth:
            said["temperature_growth"] = str(self.growth)
        if self.residual is not None:
            said["residual"] = self.residual.parameters()
        if (self.quality_floor, self.quality_cap) != (0, MILLION):
            said["quality"] = {"floor": _millionths_text(self.quality_floor), "cap": _millionths_text(self.quality_cap)}
        if self.profile is not None:
            said["profile"] = self.profile
        if self.groups is not None:
            said["groups"] = self.groups
        if self.uncertainty is not None:
            said["uncertainty"] = self.uncertainty.parameters()
        return said

    @classmethod
    def from_parameters(cls, value: Mapping[str, Any]) -> Policy:
        """Inverse of `parameters`; also reads what a policy file says. Raises InvalidPolicy."""
        reference = value.get("policy")
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise InvalidPolicy(f"policy = {reference!r} must be NAME@N, such as paper@1")
        unknown = set(value) - _SETTINGS
        if unknown:
            raise InvalidPolicy(f"policy {reference} has unknown settings: {', '.join(sorted(unknown))}")
        name, version = reference.split("@")
        k = _bounded(value, "k", _MAX_CONTRIBUTORS, reference)
        depth = _bounded(value, "depth", _MAX_DEPTH, reference)
        if depth < k:
            raise InvalidPolicy(f"policy {reference} recalls {depth} candidates for {k} contributors: raise depth")
        residual = read_residual(value["residual"], k, reference) if "residual" in value else None
        floor, cap = _quality(value.get("quality", {}), reference)
        return cls(
            name,
            int(version),
            depth,
            k,
            _temperature(value, reference),
            residual,
            floor,
            cap,
            _profile(value.get("profile"), reference),
            _growth(value, reference),
            _groups(value.get("groups"), reference),
            read_uncertainty(value["uncertainty"], k, reference) if "uncertainty" in value else None,
        )

    def check_profile(self, profile_hash: str) -> None:
        """Raises PreconditionFailed if the policy is for the distances of another profile."""
        if self.profile not in (None, profile_hash):
            raise PreconditionFailed(
                f"policy {self.reference} was fitted to profile {self.profile}, and the one in use is {profile_hash}: "
                f"fit another version by `gmvaluator calibrate`, or bind paper@1"
            )

    def shares(self, distances: Sequence[int]) -> tuple[tuple[float, ...], float]:
        """Each contributor's share and nobody's, in [0, 1], for distances in millionths, lower is nearer."""
        if not distances:
            return (), 1.0
        weights, nobody = _weigh(self, tuple(distances))
        *parts, rest = shares([*weights, nobody])
        return tuple(parts), rest

    def provisional_shares(self, distances: Sequence[int]) -> tuple[tuple[float, ...], float]:
        """As `shares` in floating point, equal to about 10^-12: for answers that a later one replaces."""
        if not distances:
            return (), 1.0
        temperature, growth = float(self.temperature), float(self.growth)
        weights = similarity_weights_roughly(distances, temperature, growth)
        nobody = 0.0 if self.residual is None else self.residual.roughly(distances, temperature, growth)
        total = sum(weights) + nobody
        return tuple([weight / total for weight in weights]), nobody / total

    def value(self, names: Sequence[str], distances: Sequence[int], quality: int) -> Valuation:
        """Divide the credits that one image issues among its contributors (equations 4 and 5) and nobody.

        names: K distinct contributor names (settle ties); distances: K millionths, lower is nearer;
        quality: millionths, higher is better. Without contributors all is unattributed.
        """
        issued = issued_micros(min(max(quality, self.quality_floor), self.quality_cap))
        if not names:
            return Valuation(issued, (), (), issued, 1.0)
        weights, nobody = _weigh(self, tuple(distances))
        *parts, unattributed = divide(issued, [*weights, nobody], [*names, UNATTRIBUTED])
        *found, rest = shares([*weights, nobody])
        return Valuation(issued, tuple(parts), tuple(found), unattributed, rest)

    def intervals(self, distances: Sequence[int], hidden: Hidden) -> Intervals | None:
        """How unsure the shares of contributors at these distances are; None if the policy does not say."""
        if self.uncertainty is None:
            return None
        return self.uncertainty.intervals(distances, *self.shares(distances), hidden)


@lru_cache(maxsize=1_024)
def _weigh(policy: Policy, distances: tuple[int, ...]) -> tuple[list[int], int]:
    """Weights of the contributors and of nobody; kept, as an image is weighed once for its shares, once for money."""
    if policy.residual is None:
        return similarity_weights(distances, policy.temperature, policy.growth), 0
    return policy.residual.weigh(distances, policy.temperature, policy.growth)


def load_policy(reference: str, folder: Path | None = None) -> Policy:
    """Read policy `NAME@N` from `folder` (the operator's) or, failing that, from those shipped.

    Raises InvalidPolicy if there is none, or if it cannot be used.
    """
    if not _REFERENCE.fullmatch(reference):
        raise InvalidPolicy(f"{reference!r} is no policy: use NAME@N, such as paper@1")
    for place in filter(None, (folder, _PACKAGED)):
        path = place / f"{reference}.toml"
        if path.is_file():
            return _read(path, reference)
    known = sorted({path.stem for place in filter(None, (folder, _PACKAGED)) for path in place.glob("*@*.toml")})
    raise InvalidPolicy(f"there is no policy {reference}; known: {', '.join(known)}")


def _read(path: Path, reference: str) -> Policy:
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(f"policy file {path.name} is not TOML: {error}") from error
    if value.get("policy") != reference:
        raise InvalidPolicy(f"policy file {path.name} says policy = {value.get('policy')!r}: name and file must agree")
    return Policy.from_parameters(value)


def _bounded(value: Mapping[str, Any], setting: str, high: int, reference: str) -> int:
    number = value.get(setting)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= high:
        raise InvalidPolicy(f"policy {reference} has {setting} = {number!r}: give a whole number from 1 to {high}")
    return number


def _quality(value: Any, reference: str) -> tuple[int, int]:
    if not isinstance(value, Mapping) or set(value) - {"floor", "cap"}:
        raise InvalidPolicy(f"policy {reference} has a `quality` that is no table of floor and cap")
    floor, cap = (
        number(value.get(name, default), f"quality.{name}", reference)
        for name, default in (("floor", "0"), ("cap", "1"))
    )
    if not 0 <= floor <= cap <= 1:
        raise InvalidPolicy(f"policy {reference} counts quality from {floor} to {cap}: give 0 <= floor <= cap <= 1")
    return int(floor * MILLION), int(cap * MILLION)


def _millionths_text(value: int) -> str:
    return str(Decimal(value) / MILLION)


def _profile(value: Any, reference: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not _HASH.fullmatch(value)):
        raise InvalidPolicy(f"policy {reference} has profile = {value!r}: give the profile's hash, 64 hex digits")
    return value


def _groups(value: Any, reference: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in GROUP_WEIGHTS:
        raise InvalidPolicy(
            f"policy {reference} has groups = {value!r}: give {' or '.join(GROUP_WEIGHTS)}, or leave it"
        )
    return value


def _temperature(value: Mapping[str, Any], reference: str) -> Decimal:
    text = value.get("temperature")
    try:
        temperature = Decimal(text) if isinstance(text, str) else Decimal("NaN")
    except InvalidOperation:
        temperature = Decimal("NaN")
    if not temperature.is_finite() or not Decimal("0.0001") <= temperature <= 1000:
        raise InvalidPolicy(
            f'policy {reference} has temperature = {text!r}: give a decimal string from "0.0001" to "1000"'
        )
    return temperature


def _growth(value: Mapping[str, Any], reference: str) -> Decimal:
    growth = number(value.get("temperature_growth", "0"), "temperature_growth", reference)
    if not 0 <= growth <= _MAX_GROWTH:
        raise InvalidPolicy(f"policy {reference} has temperature_growth = {growth}: give 0 to {_MAX_GROWTH}")
    return growth
