"""Policies: named, versioned ways to turn distances and a quality into credits.

A policy is a file `NAME@N.toml`. The operator binds one to a generator; every posting names it and keeps its
parameters in the evidence. `paper@1` is equations 4-6 to the letter.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation import divide, issued_micros, shares, similarity_weights

UNATTRIBUTED = "unattributed"
"""The account that is paid what no contributor earns."""

_PACKAGED = Path(__file__).parent / "policies"
_REFERENCE = re.compile(r"[a-z][a-z0-9-]{0,39}@[1-9][0-9]{0,5}")
_MAX_CONTRIBUTORS = 1_000
_MAX_DEPTH = 10_000


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
    exp(-d / τ); 1 is the paper's, smaller pays the nearest more.
    """

    name: str
    version: int
    depth: int
    k: int
    temperature: Decimal

    @property
    def reference(self) -> str:
        """`NAME@N`, as generators and postings name it."""
        return f"{self.name}@{self.version}"

    def parameters(self) -> dict[str, Any]:
        """Everything that value() depends on, as plain JSON, for the evidence."""
        return {"policy": self.reference, "depth": self.depth, "k": self.k, "temperature": str(self.temperature)}

    @classmethod
    def from_parameters(cls, value: Mapping[str, Any]) -> Policy:
        """Inverse of `parameters`; also reads what a policy file says. Raises InvalidPolicy."""
        reference = value.get("policy")
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise InvalidPolicy(f"policy = {reference!r} must be NAME@N, such as paper@1")
        unknown = set(value) - {"policy", "depth", "k", "temperature", "description"}
        if unknown:
            raise InvalidPolicy(f"policy {reference} has unknown settings: {', '.join(sorted(unknown))}")
        name, version = reference.split("@")
        k = _bounded(value, "k", _MAX_CONTRIBUTORS, reference)
        depth = _bounded(value, "depth", _MAX_DEPTH, reference)
        if depth < k:
            raise InvalidPolicy(f"policy {reference} recalls {depth} candidates for {k} contributors: raise depth")
        return cls(name, int(version), depth, k, _temperature(value, reference))

    def shares(self, distances: Sequence[int]) -> tuple[float, ...]:
        """Each contributor's share in [0, 1], for distances in millionths, lower is nearer."""
        return tuple(shares(similarity_weights(distances, self.temperature)))

    def value(self, names: Sequence[str], distances: Sequence[int], quality: int) -> Valuation:
        """Divide the credits that one image issues among its contributors (equations 4 and 5).

        names: K distinct contributor names (settle ties); distances: K millionths, lower is nearer;
        quality: millionths, higher is better. Without contributors all is unattributed.
        """
        issued = issued_micros(quality)
        if not names:
            return Valuation(issued, (), (), issued, 1.0)
        weights = similarity_weights(distances, self.temperature)
        parts = divide(issued, weights, names)
        return Valuation(issued, tuple(parts), tuple(shares(weights)), 0, 0.0)


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidPolicy(f"policy file {path.name} is not TOML: {error}") from error
    if value.get("policy") != reference:
        raise InvalidPolicy(f"policy file {path.name} says policy = {value.get('policy')!r}: name and file must agree")
    return Policy.from_parameters(value)


def _bounded(value: Mapping[str, Any], setting: str, high: int, reference: str) -> int:
    number = value.get(setting)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= high:
        raise InvalidPolicy(f"policy {reference} has {setting} = {number!r}: give a whole number from 1 to {high}")
    return number


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
