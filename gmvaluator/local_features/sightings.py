"""Parts of an image: which candidates are looked for in it, and where they were seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gmvaluator.ids import TrainingImageId
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.local_features.regions import Region, mask_of, regions
from gmvaluator.local_features.verification import Verified, verify
from gmvaluator.ports import Candidate
from gmvaluator.valuation.parts import NOT_SEEN, Sighting
from gmvaluator.valuation.weights import distance_millionths

WINDOW_DEPTH = 10
"""Works recalled for each window of an image."""

NEAREST = 25
"""Works nearest to the whole image that are looked for in it; the others are those nearest to its windows."""

MAX_EXAMINED = 60
"""Most works that are looked for in one image."""


@dataclass(frozen=True, slots=True)
class SeenParts:
    """Works that were seen in parts of an image.

    content: mask of the cells that show anything, None if parts were not examined. sightings, work_regions: by work,
    of the works that were seen anywhere.
    """

    content: int | None = None
    sightings: Mapping[TrainingImageId, Sighting] = field(default_factory=dict)
    work_regions: Mapping[TrainingImageId, int] = field(default_factory=dict)

    def sighting(self, work: TrainingImageId) -> Sighting:
        return self.sightings.get(work, NOT_SEEN)


NOTHING_SEEN = SeenParts()
"""Parts that were not examined."""


def window_sightings(recalled: Sequence[Sequence[Candidate]], masks: Sequence[int]) -> dict[TrainingImageId, Sighting]:
    """Return for each work recalled by a window the window that is nearest to it. masks: of the windows, in order."""
    nearest: dict[TrainingImageId, Sighting] = {}
    for candidates, mask in zip(recalled, masks, strict=True):
        for candidate in candidates:
            sighting = Sighting(mask, distance_millionths(1 - candidate.clip_similarity))
            known = nearest.setdefault(candidate.training_image_id, sighting)
            if sighting.window_distance < known.window_distance:
                nearest[candidate.training_image_id] = sighting
    return nearest


def to_examine(
    nearest: Iterable[TrainingImageId], sightings: Mapping[TrainingImageId, Sighting]
) -> list[TrainingImageId]:
    """Return the works to look for: those nearest to the image, then those nearest to a window of it.

    nearest: works in the order of their perceptual distance.
    """
    by_window = sorted(sightings, key=lambda work: (sightings[work].window_distance, work.int))
    by_distance = list(nearest)
    chosen = dict.fromkeys([*by_distance[:NEAREST], *by_window, *by_distance[NEAREST:]])
    return list(chosen)[:MAX_EXAMINED]


def examine(
    image: LocalFeatures,
    works: Mapping[TrainingImageId, LocalFeatures],
    sightings: Mapping[TrainingImageId, Sighting],
) -> SeenParts:
    """Look for `works` in the image by their local features, and return where they are, with where windows saw them."""
    verified = {work: position for work, features in works.items() if (position := verify(image, features)) is not None}
    by_work = regions(verified, works)
    seen = {
        work: _seen(sightings.get(work, NOT_SEEN), verified.get(work), by_work.get(work))
        for work in {**sightings, **by_work}
    }
    return SeenParts(mask_of(image.content), seen, {work: region.work for work, region in by_work.items()})


def _seen(window: Sighting, position: Verified | None, region: Region | None) -> Sighting:
    if position is None or region is None:
        return window
    return window._replace(region=region.image, inliers=position.inliers)
