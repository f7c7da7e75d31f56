"""Which of the sample's artists may be learned from, and which are kept for tests.

Fixed before anything was fitted. A model may be trained, and a policy fitted, on works of fit artists alone; every
figure that is quoted is of queries made from works of test artists, the shipped examples excepted, which say so.
"""

from __future__ import annotations

import hashlib

FIT_ARTISTS = 13
"""Of the sample's 26."""

OWNERS = (
    *("abiclipart", "andy-fitzsimon", "benji-park", "caleb-moore", "cezary-biele", "codifiedivining"),
    *("dan-gerhards", "daniel-mcrae", "danny-allen", "gerald-g", "jakob", "jean-victor-balin", "john-cliff"),
    *("jonadab-the-unsightly-one", "jose-hevia", "juliane-krug", "lauris-kaplinski", "linda-kim"),
    *("lumen-design-studio", "marko-j-kolehmainen", "mo", "nathan-eady", "nicolas-clementz"),
    *("sergio-luiz-araujo-silva", "tobias-jakobs", "yves-guillou"),
)
"""`owner_id` of every artist of the sample."""


def _order(owner: str) -> str:
    return hashlib.sha256(f"known-source/{owner}".encode()).hexdigest()


FIT_OWNERS = frozenset(sorted(OWNERS, key=_order)[:FIT_ARTISTS])
TEST_OWNERS = frozenset(OWNERS) - FIT_OWNERS
