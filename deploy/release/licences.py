"""Licences of dependencies: what they are, and whether the product may depend on them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "licences.toml"
_WORDS = re.compile(r"\s+(?:AND|OR|WITH)\s+|[()]")


@dataclass(frozen=True, slots=True)
class LicenceRules:
    """What licences.toml says."""

    allowed: frozenset[str]
    stated: Mapping[str, str]
    exceptions: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = _FILE) -> LicenceRules:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(frozenset(found["allowed"]), found["stated"], found["exceptions"])

    def complete(self, component: dict[str, Any]) -> None:
        """Give a CycloneDX component that names no licence the one that is known by hand."""
        known = self.stated.get(component["name"].lower().replace("_", "-"))
        if known is not None and not component.get("licenses"):
            kind = "name" if known.startswith("LicenseRef-") else "id"
            component["licenses"] = [{"license": {kind: known, "acknowledgement": "concluded"}}]

    def problem(self, name: str, licences: Sequence[str]) -> str | None:
        """What is wrong with a package's licences; None if nothing is. One that is allowed is enough where it has
        several: packages state theirs once as an expression and once as a classifier."""
        if any(fnmatch(name, pattern) for pattern in self.exceptions):
            return None
        if not licences:
            return f"{name} names no licence: look it up, and put it into deploy/release/licences.toml under [stated]"
        if any(self._allows(licence) for licence in licences):
            return None
        return f"{name} has {' and '.join(licences)}: not among those that deploy/release/licences.toml allows"

    def _allows(self, licence: str) -> bool:
        parts = [licence] if licence.startswith("License ::") else _WORDS.split(licence)
        return all(part.strip() in self.allowed for part in parts if part.strip())


def licences_of(component: Mapping[str, Any]) -> list[str]:
    """Licences of a CycloneDX component: expressions, SPDX identifiers or names."""
    found = component.get("licenses", ())
    return [
        one["expression"] if "expression" in one else one["license"].get("id") or one["license"]["name"]
        for one in found
    ]
