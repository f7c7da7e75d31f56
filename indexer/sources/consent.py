"""Opt-out signals in a source, by which owners refuse training.

Columns: `noai`, `noimageai`, `noml` (DeviantArt's directives, which img2dataset honours), `tdm_reservation` (W3C TDM
Reservation Protocol: 1 reserves), and any of the directives inside `robots` or `x_robots_tag`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

DIRECTIVES = ("noai", "noimageai", "noml")
_RESERVATIONS = ("tdm_reservation", "tdmrep", "tdm")
_ROBOTS = ("robots", "x_robots_tag", "robots_tag")
# Whatever is not clearly a no is an opt-out: an image left out by mistake harms less than one taken.
_NO = frozenset({"", "0", "false", "no", "none", "null", "n", "f", "0.0"})


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
