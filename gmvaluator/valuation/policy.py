"""Policies: named, versioned ways to turn distances and a quality into credits.

A policy is a file `NAME@N.toml`. The operator binds one to a generator; every posting names it and keeps its
parameters in the evidence. `paper@1` is equations 4-6 to the letter; others may set a temperature, a residual and the
range in which quality counts. Table `fit` of the file documents what the policy was fitted on; valuing ignores it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from gmvaluator.accounts import UNATTRIBUTED
from gmvaluator.errors import InvalidInput, InvalidPolicy, PreconditionFailed
from gmvaluator.text import decode_text
from gmvaluator.valuation.background import Background, read_background
from gmvaluator.valuation.parameters import is_sha256, read_decimal, read_growth, read_temperature
from gmvaluator.valuation.parts import Parts, PartsRule, read_parts
from gmvaluator.valuation.residual import Residual, VirtualContributor, read_residual
from gmvaluator.valuation.uncertainty import Intervals, Replicate, Uncertainty, Uncounted, read_uncertainty
from gmvaluator.valuation.weights import (
    MILLION,
    approximate_similarity_weights,
    divide,
    issued_micros,
    shares,
    similarity_weights,
)

GROUP_WEIGHTS = ("nearest", "first")
"""Members that may give a group of near-duplicates its distance: the nearest candidate, or the one indexed first."""

_PACKAGED = Path(__file__).parent / "policies"
_REFERENCE = re.compile(r"[a-z][a-z0-9-]{0,39}@[1-9][0-9]{0,5}")
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
    "parts",
    "background",
    "fit",
}
_MAX_CONTRIBUTORS = 1_000
_MAX_DEPTH = 10_000


@dataclass(frozen=True, slots=True)
class Valuation:
    """The credits of one generated image; `credit_micros[i]` and `shares[i]` belong to contributor i as given.

    sum(credit_micros) + unattributed_micros == issued_micros, always.
    """

    issued_micros: int
    credit_micros: tuple[int, ...]
    shares: tuple[float, ...]
    unattributed_micros: int
    unattributed_share: float


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule that selects contributors and turns their distances into weights.

    depth: candidates recalled before re-ranking. k: contributors paid at most. temperature: τ in exp(-d / τ); 1 is the
    paper's, a smaller one pays the nearest more. growth: by how much τ grows for each unit of distance
    (`weights.similarity_weights`); 0 is the paper's. residual: the unattributed share; None is the paper's, which
    leaves nothing unattributed. quality_floor, quality_cap: millionths to which an image's quality is clamped; 0 and
    one million are the paper's, equal ones ignore quality. profile: hash of the only profile whose distances it is
    for, or None. groups: whether near-duplicates are one contributor, with the distance of its "nearest" member or of
    its "first"; None is the paper's, every work for itself. uncertainty: of the fit; None if it is unknown. parts: how
    works count that are seen in parts of the image; None is the paper's, which compares whole images only. background:
    by which distances are normalised; None is the paper's, which takes them as they are.
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
    parts: PartsRule | None = None
    background: Background | None = None

    @property
    def reference(self) -> str:
        """`NAME@N`, as generators and postings name it."""
        return f"{self.name}@{self.version}"

    def parameters(self) -> dict[str, Any]:
        """Return everything that `value` depends on, as plain JSON, for the evidence."""
        parameters: dict[str, Any] = {
            "policy": self.reference,
            "depth": self.depth,
            "k": self.k,
            "temperature": str(self.temperature),
        }
        # Settings equal to the paper's are left out: evidence of older versions, which had fewer, keeps its bytes.
        if self.growth:
            parameters["temperature_growth"] = str(self.growth)
        if self.residual is not None:
            parameters["residual"] = self.residual.parameters()
        if (self.quality_floor, self.quality_cap) != (0, MILLION):
            floor, cap = _millionths_text(self.quality_floor), _millionths_text(self.quality_cap)
            parameters["quality"] = {"floor": floor, "cap": cap}
        if self.profile is not None:
            parameters["profile"] = self.profile
        if self.groups is not None:
            parameters["groups"] = self.groups
        if self.uncertainty is not None:
            parameters["uncertainty"] = self.uncertainty.parameters()
        if self.parts is not None:
            parameters["parts"] = self.parts.parameters()
        if self.background is not None:
            parameters["background"] = self.background.parameters()
        return parameters

    @classmethod
    def from_parameters(cls, value: Mapping[str, Any]) -> Policy:
        """Parse the output of `parameters`, or a policy file. Raises InvalidPolicy."""
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
        parts = _parts(value, residual, reference)
        background = read_background(value["background"], k, reference) if "background" in value else None
        uncertainty = read_uncertainty(value["uncertainty"], k, reference) if "uncertainty" in value else None
        if uncertainty is not None:
            _check_alike(uncertainty.replicates, parts, background, reference)
        return cls(
            name,
            int(version),
            depth,
            k,
            read_temperature(value, reference),
            residual,
            floor,
            cap,
            _profile(value.get("profile"), reference),
            read_growth(value, reference),
            _groups(value.get("groups"), reference),
            uncertainty,
            parts,
            background,
        )

    def check_profile(self, profile_hash: str) -> None:
        """Raise PreconditionFailed if the policy is for the distances of another profile."""
        if self.profile not in (None, profile_hash):
            raise PreconditionFailed(
                f"policy {self.reference} was fitted to profile {self.profile}, and the one in use is {profile_hash}: "
                f"fit another version by `gmvaluator calibrate`, or bind paper@1"
            )

    def shares(self, distances: Sequence[int], parts: Parts | None = None) -> tuple[tuple[float, ...], float]:
        """Return each contributor's share and the unattributed one, in [0, 1].

        distances: millionths, lower is nearer. parts: where the same contributors were seen; None if that is unknown.
        """
        if not distances:
            return (), 1.0
        weights, residual_weight = _weigh(self, tuple(distances), parts)
        *contributors, unattributed = shares([*weights, residual_weight])
        return tuple(contributors), unattributed

    def counted_distances(self, distances: Sequence[int]) -> list[int]:
        """Return the distances by which contributors at `distances` are weighed: all of an image, in millionths."""
        return list(distances) if self.background is None else self.background.normalised(distances)

    def provisional_shares(self, distances: Sequence[int]) -> tuple[tuple[float, ...], float]:
        """Compute `shares` in floating point, equal to about 10^-12: for replies that a later one replaces."""
        if not distances:
            return (), 1.0
        distances = self.counted_distances(distances)
        temperature, growth = float(self.temperature), float(self.growth)
        weights = approximate_similarity_weights(distances, temperature, growth)
        residual_weight = 0.0
        if self.residual is not None:
            residual_weight = self.residual.approximate_weight(distances, temperature, growth)
        total = sum(weights) + residual_weight
        return tuple([weight / total for weight in weights]), residual_weight / total

    def value(
        self, names: Sequence[str], distances: Sequence[int], quality: int, parts: Parts | None = None
    ) -> Valuation:
        """Divide the credits that one image issues among its contributors (equations 4 and 5).

        names: K distinct contributor names, which settle ties. distances: K millionths, lower is nearer. quality:
        millionths, higher is better. parts: see `shares`. Without contributors everything is unattributed.
        """
        issued = issued_micros(min(max(quality, self.quality_floor), self.quality_cap))
        if not names:
            return Valuation(issued, (), (), issued, 1.0)
        weights, residual_weight = _weigh(self, tuple(distances), parts)
        *amounts, unattributed = divide(issued, [*weights, residual_weight], [*names, UNATTRIBUTED])
        *fractions, rest = shares([*weights, residual_weight])
        return Valuation(issued, tuple(amounts), tuple(fractions), unattributed, rest)

    def intervals(self, distances: Sequence[int], uncounted: Uncounted, parts: Parts | None = None) -> Intervals | None:
        """Return intervals of the `shares` of the same arguments; None if the policy carries no uncertainty."""
        if self.uncertainty is None:
            return None
        counted = None if self.parts is None else parts
        return self.uncertainty.intervals(distances, *self.shares(distances, parts), uncounted, counted)


# Cached: one image is weighed for its shares, for its intervals and for its credits.
@lru_cache(maxsize=1_024)
def _weigh(policy: Policy, distances: tuple[int, ...], parts: Parts | None) -> tuple[list[int], int]:
    """Return the contributors' weights and the residual's."""
    counted = policy.counted_distances(distances)
    if policy.residual is None:
        return similarity_weights(counted, policy.temperature, policy.growth), 0
    weights, residual_weight = policy.residual.weigh(counted, policy.temperature, policy.growth)
    if policy.parts is None or parts is None:
        return weights, residual_weight
    return policy.parts.weigh(parts, weights, residual_weight)


def load_policy(reference: str, folder: Path | None = None) -> Policy:
    """Read policy `NAME@N` from `folder` (the operator's), or else from the package.

    Raises InvalidPolicy if there is none or if it cannot be used.
    """
    # Checked before it becomes a file name: no reference leads out of the folder.
    if not _REFERENCE.fullmatch(reference):
        raise InvalidPolicy(f"{reference!r} is no policy: use NAME@N, such as paper@1")
    files = policy_files(folder)
    if reference in files:
        return _read(files[reference], reference)
    raise InvalidPolicy(f"there is no policy {reference}; known: {', '.join(sorted(files))}")


def policy_files(folder: Path | None = None) -> dict[str, Path]:
    """Return the file of each policy that can be named, by NAME@N; those of `folder` take precedence."""
    sources = filter(None, (_PACKAGED, folder))
    return {path.stem: path for source in sources for path in source.glob("*@*.toml") if path.is_file()}


def shipped_policy(profile_hash: str) -> str | None:
    """Return the newest shipped policy that was calibrated for a profile; None if there is none."""
    policies = [_read(path, path.stem) for path in _PACKAGED.glob("*@*.toml")]
    calibrated = [policy for policy in policies if policy.profile == profile_hash]
    return max(calibrated, key=lambda policy: policy.version).reference if calibrated else None


def _read(path: Path, reference: str) -> Policy:
    try:
        value = tomllib.loads(decode_text(path.read_bytes(), f"policy file {path.name}"))
    # RecursionError: tomllib calls itself for every nested list.
    except (tomllib.TOMLDecodeError, InvalidInput, RecursionError) as error:
        raise InvalidPolicy(f"policy file {path.name} is not TOML: {error}") from error
    if value.get("policy") != reference:
        raise InvalidPolicy(f"policy file {path.name} says policy = {value.get('policy')!r}: name and file must agree")
    return Policy.from_parameters(value)


def _bounded(value: Mapping[str, Any], setting: str, high: int, reference: str) -> int:
    number = value.get(setting)
    # In Python a bool is an int, and `k = true` is a mistake.
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= high:
        raise InvalidPolicy(f"policy {reference} has {setting} = {number!r}: give a whole number from 1 to {high}")
    return number


def _quality(value: Any, reference: str) -> tuple[int, int]:
    if not isinstance(value, Mapping) or set(value) - {"floor", "cap"}:
        raise InvalidPolicy(f"policy {reference} has a `quality` that is no table of floor and cap")
    floor, cap = (
        read_decimal(value.get(name, default), f"quality.{name}", reference)
        for name, default in (("floor", "0"), ("cap", "1"))
    )
    if not 0 <= floor <= cap <= 1:
        raise InvalidPolicy(f"policy {reference} counts quality from {floor} to {cap}: give 0 <= floor <= cap <= 1")
    return int(floor * MILLION), int(cap * MILLION)


def _millionths_text(value: int) -> str:
    return str(Decimal(value) / MILLION)


def _profile(value: Any, reference: str) -> str | None:
    if value is not None and not is_sha256(value):
        raise InvalidPolicy(f"policy {reference} has profile = {value!r}: give the profile's hash, 64 hex digits")
    profile_hash: str | None = value
    return profile_hash


def _parts(value: Mapping[str, Any], residual: Residual | None, reference: str) -> PartsRule | None:
    if "parts" not in value:
        return None
    if not isinstance(residual, VirtualContributor):
        raise InvalidPolicy(f"policy {reference} has parts and no residual.distance, by which they are weighed")
    return read_parts(value["parts"], reference)


def _check_alike(
    replicates: Sequence[Replicate], parts: PartsRule | None, background: Background | None, reference: str
) -> None:
    for name, setting in (("parts", parts), ("background", background)):
        if any((getattr(replicate, name) is None) != (setting is None) for replicate in replicates):
            raise InvalidPolicy(f"policy {reference} has a table `{name}`, or replicates with one, but not both")


def _groups(value: Any, reference: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in GROUP_WEIGHTS:
        raise InvalidPolicy(
            f"policy {reference} has groups = {value!r}: give {' or '.join(GROUP_WEIGHTS)}, or leave it"
        )
    return value
