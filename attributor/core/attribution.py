"""Types of an attribution: its request, stages, contributors and timings (section 8 of the wire contract)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from attributor.workers.decoder_pool import EncodedImage
from gmvaluator.ids import GenerationId, TrainingImageId, sha256_hex
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Float32Array


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding that a client computed: (D,) recall, (Q · P,) perceptual, quality in [0, 1], higher is better.

    windows: (W · D,) recall vectors of its windows. local: its local features. Empty and None for a profile without.
    """

    profile_hash: str
    facts: ImageFacts
    recall: Float32Array
    perceptual: Float32Array
    quality: float
    windows: Float32Array
    local: LocalFeatures | None


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A request to value one generated image.

    image: the image's file; None if the client sent `embedded` in its place.
    policy: NAME@N in place of the generator's own, for previews; "" for the generator's own.
    """

    generator_identity: str
    generation_id: GenerationId
    model_version: str
    image: EncodedImage | None
    generated_at: datetime
    policy: str = ""
    embedded: Embedded | None = None

    @property
    def image_sha256(self) -> str:
        """SHA-256 of the file, 64 hex digits."""
        if self.embedded is not None:
            return self.embedded.facts.sha256
        assert self.image is not None
        return sha256_hex(self.image.data)

    @property
    def pixels(self) -> int:
        """Pixels to decode; 0 for an embedding."""
        return 0 if self.image is None else self.image.pixels


class Stage(Enum):
    """Stage of an attribution; a later stage replaces an earlier one."""

    RECALLED = "recalled"
    RERANKED = "reranked"
    FINAL = "final"


class Payee(NamedTuple):
    """An account that is paid for a contributor. share_ppm: in millionths. credit_micros: at FINAL only."""

    account: str
    display_name: str
    share_ppm: int
    credit_micros: int | None = None


class VisibleParts(NamedTuple):
    """Where an image shows a work: inliers of its verification, masks (see `valuation.parts`) of the image's cells that
    show it and of the work's cells that are shown, and the share of the image that shows it, in [0, 1]."""

    inliers: int
    image_cells: int
    work_cells: int
    image_share: float


class Contributor(NamedTuple):
    """A training image's part in an attribution.

    clip_similarity: higher is nearer. share: in [0, 1]. perceptual_distance: lower is nearer; from RERANKED on.
    duplicate_group: the first of its near-duplicates, where several were valued as one. competing: another claim
    within that group is earlier, so this work is not paid. credit_micros, share_low, share_high: at FINAL; the last
    two are the interval of the share, or of the group's share. visible: from RERANKED on, if the work was verified in
    parts of the image.
    """

    training_image_id: TrainingImageId
    clip_similarity: float
    share: float
    key: str
    title: str
    perceptual_distance: float | None = None
    credit_micros: int | None = None
    payees: tuple[Payee, ...] = ()
    duplicate_group: TrainingImageId | None = None
    competing: bool = False
    share_low: float | None = None
    share_high: float | None = None
    visible: VisibleParts | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds by stage; 0 for stages that were not reached."""

    queue_ms: float = 0.0
    decode_ms: float = 0.0
    embed_ms: float = 0.0
    recall_ms: float = 0.0
    rerank_ms: float = 0.0
    quality_ms: float = 0.0
    post_ms: float = 0.0
    total_ms: float = 0.0
    lookup_ms: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return name to milliseconds, rounded to three decimals."""
        return {name: round(getattr(self, name), 3) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Attribution:
    """The result of one stage; the message of the same name in proto/ defines each field's unit and range."""

    generation_id: str
    model_version: str
    stage: Stage
    contributors: tuple[Contributor, ...]
    unattributed_share: float
    policy: str
    quality: float | None = None
    issued_micros: int | None = None
    unattributed_micros: int | None = None
    unattributed_share_low: float | None = None
    unattributed_share_high: float | None = None
    sequence: int | None = None
    head_hash: bytes | None = None
    replayed: bool = False
    timings: Timings = field(default_factory=Timings)


class Stopwatch:
    """A stopwatch of a request's stages, by the monotonic clock."""

    def __init__(self) -> None:
        self._start = self._lap = time.monotonic()
        self._timings = Timings()

    def lap(self, name: str) -> None:
        """Record the time since the last lap as `name`, and begin a new lap."""
        self.record(**{name: (time.monotonic() - self._lap) * 1000})

    def record(self, **measured_ms: float) -> None:
        """Record times that were measured elsewhere, or none, and begin a new lap."""
        self._lap = time.monotonic()
        self._timings = replace(self._timings, **measured_ms)

    def read(self) -> Timings:
        """Return the timings so far, `total_ms` included."""
        return replace(self._timings, total_ms=(time.monotonic() - self._start) * 1000)
