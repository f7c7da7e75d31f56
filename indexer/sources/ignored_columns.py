"""Columns that a source has under a name that is not known, where the name shows what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

from indexer.sources.consent import opt_out_signal

_OWNER_WORDS = frozenset(
    {
        "owner", "onwer", "ower", "author", "auther", "artist", "creator", "photographer", "painter", "illustrator",
        "rightsholder", "holder", "copyright", "uploader", "contributor", "maker", "designer", "user",
    }
)  # fmt: skip
_CONSENT_WORDS = {
    "noai": "noai", "noaitraining": "noai", "donottrain": "noai", "notrain": "noai", "optout": "noai",
    "optedout": "noai", "noimageai": "noimageai", "noml": "noml", "tdmreservation": "tdm_reservation",
    "tdmreserved": "tdm_reservation", "tdmrep": "tdm_reservation",
}  # fmt: skip

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAX_COLUMNS = 20
"""Columns that are kept, at most: documents of tars may each have names of their own."""


class IgnoredColumns:
    """Columns that were not read, each with the name that was probably meant."""

    def __init__(self) -> None:
        self._meant: dict[str, str] = {}

    def note(self, names: Iterable[str], owner_known: bool) -> None:
        """Note the columns of a table. owner_known: whether one of them names the owners."""
        for name in names:
            meant = _meant(name, owner_known)
            if meant and len(self._meant) < _MAX_COLUMNS:
                self._meant.setdefault(name, meant)

    def as_dict(self) -> dict[str, str]:
        """Return the name that was meant, by column."""
        return dict(self._meant)


def _meant(name: str, owner_known: bool) -> str:
    words = [word.lower() for word in _WORD.findall(name)]
    consent = _CONSENT_WORDS.get("".join(words), "")
    if consent and not opt_out_signal({name: "1"}):
        return consent
    if not owner_known and any(word in _OWNER_WORDS or word.removesuffix("s") in _OWNER_WORDS for word in words):
        return "owner_id"
    return ""
