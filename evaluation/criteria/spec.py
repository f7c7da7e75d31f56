"""How many pictures of which kind, from which seeds.

Sizes and seeds were fixed before anything was measured. Epochs were raised afterwards, as the first generators drew few
digits that one could read, and the first classifier named one of twenty real ones wrongly; they were chosen by how many
digits can be read, by held-out pictures and by time, not by any criterion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SEED = 88
CLASS_KS = (30, 50, 100)
ATTRIBUTE_KS = (5, 10, 15)


@dataclass(frozen=True, slots=True)
class Plan:
    """works: training pictures, all of them indexed. held: pictures of the same data set never trained on. asked: of
    these, and of each generator's images, how many are asked about. epochs: of the generators. polluted: clean
    training pictures of C3; strays: noisy ones, and as many foreign ones. indexed: works of the real index of C4.
    timed: images of C4; paired: of these, how many the plain pipeline is given. artworks: of C2."""

    works: int
    held: int
    asked: int
    epochs: int
    classifier_epochs: int
    polluted: int
    strays: int
    indexed: int
    timed: int
    paired: int
    artworks: int


FULL = Plan(6_000, 600, 200, 30, 30, 1_500, 150, 3_000, 60, 4, 1_051)
SHORT = Plan(300, 60, 12, 4, 4, 120, 15, 300, 6, 1, 60)

FULL_FASHION = replace(FULL, works=2_000, held=400, epochs=90)
SHORT_FASHION = SHORT
"""Of the second data set, which is there to see that the first is no exception."""
