"""Opt-outs: signals in a source by which owners refuse training, and lists of images to leave out.

Columns: `noai`, `noimageai`, `noml` (DeviantArt's directives, which img2dataset honours), `tdm_reservation` (W3C TDM
Reservation Protocol: 1 reserves), and any of the directives inside `robots` or `x_robots_tag`. Lists: a file of
SHA-256s, keys or URLs, one per line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gmvaluator.errors import InvalidInput, MissingData
from gmvaluator.ids import sha256_hex

DIRECTIVES = ("noai", "noimageai", "noml")
_RESERVATIONS = ("tdm_reservation", "tdmrep", "tdm")
_ROBOTS = ("robots", "x_robots_tag", "robots_tag")
# Whatever is not clearly a no is an opt-out: an image left out by mistake harms less than one taken.
_NO = frozenset({"", "0", "false", "no", "none", "null", "n", "f", "0.0"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_LINE = 10_000


def opt_out_signal(row: Mapping[str, str]) -> str:
    """Return the first signal of a row that refuses training, as text for people; "" if there is none."""
    cells = {name.lower().replace("-", "_"): value.strip().lower() for name, value in row.items()}
    for column in (*DIRECTIVES, *_RESERVATIONS):
        if cells.get(column, "") not in _NO:
            return f"{column} = {cells[column][:40]}"
    for column in _ROBOTS:
        directives = set(re.split(r"[\s,;:]+", cells.get(column, "")))
        for directive in DIRECTIVES:
            if directive in directives:
                return f"{column} says {directive}"
    return ""


@dataclass(frozen=True, slots=True)
class OptOutList:
    """SHA-256s, keys and URLs whose owners opted out."""

    sha256s: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path) -> OptOutList:
        """Read a file of one entry per line; empty lines and lines that begin with # are ignored.

        Raises MissingData, InvalidInput.
        """
        try:
            # With or without a byte order mark, which some editors write.
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except OSError as error:
            raise MissingData(f"the opt-out list {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidInput(f"the opt-out list {path} is not UTF-8: {error}") from error
        entries = {line for line in lines if line and not line.startswith("#")}
        if any(len(entry) > _MAX_LINE for entry in entries):
            raise InvalidInput(f"the opt-out list {path} has a line of over {_MAX_LINE:,} characters")
        hashes = {entry.lower() for entry in entries if _SHA256.fullmatch(entry.lower())}
        return cls(frozenset(hashes), frozenset(entries))

    @property
    def digest(self) -> str:
        """A hash that differs between lists; "" for an empty list."""
        return sha256_hex("\n".join(sorted(self.names)).encode()) if self.names else ""

    def names_one_of(self, *names: str) -> str:
        """Return the first of `names` that is listed, or ""."""
        return next((name for name in names if name and name in self.names), "")

    def has_sha256(self, sha256: str) -> bool:
        """Return whether the image with these bytes is listed."""
        return sha256 in self.sha256s


NO_OPT_OUTS = OptOutList()
