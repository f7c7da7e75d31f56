"""What an attribution is while it is made: the stages of section 8 of the wire contract, without the wire."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from attributor.workers.decoder_pool import EncodedImage
from gmvaluator.ids import GenerationId, TrainingImageId, sha256_hex
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Float32Array


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a client's own models made of an image: (D,) recall, (Q · P,) perceptual, quality in [0, 1]."""

    profile_hash: str
    facts: ImageFacts
    recall: Float32Array
    perceptual: Float32Array
    quality: float


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One generated image to be valued. policy: NAME@N instead of the generator's own, for previews.

    image: the image's file; None if the client sent `embedded` in its place.
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
        """Of the file, 64 hex digits."""
        if self.embedded is not None:
            return self.embedded.facts.sha256
        assert self.image is not None
        return sha256_hex(self.image.data)

    @property
    def pixels(self) -> int:
        """Pixels to decode; 0 for an embedding."""
        return 0 if self.image is None else self.image.pixels


class Stage(Enum):
    """How far an attribution has come; a later stage replaces an earlier one."""

    RECALLED = "recalled"
    RERANKED = "reranked"
    FINAL = "final"


class Payee(NamedTuple):
    """One account paid for a contributor; `credit_micros` only at FINAL."""

    account: str
    display_name: str
    share_ppm: int
    credit_micros: int | None = None


class Contributor(NamedTuple):
    """One training image's part. share in [0, 1]; perceptual_distance from RERANKED, credit_micros at FINAL.

    duplicate_group: the first of its near-copies, where several were valued as one; competing: another's claim among
    them is earlier. share_low, share_high: interval of the share, of the whole group's where there is one, at FINAL.
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


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds by stage; what was not reached is 0."""

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
        """Name to milliseconds, to three decimals."""
        return {name: round(getattr(self, name), 3) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Attribution:
    """One stage's answer; see the message of the same name in proto/ for each field's unit and range."""

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
    """Collects a request's timings; monotonic."""

    def __init__(self) -> None:
        self._start = self._lap = time.monotonic()
        self._timings = Timings()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        self.book(**{name: (time.monotonic() - self._lap) * 1000})

    def book(self, **measured_ms: float) -> None:
        """Book times measured elsewhere, or none, and begin a new lap."""
        self._lap = time.monotonic()
        self._timings = replace(self._timings, **measured_ms)

    def read(self) -> Timings:
        """Timings so far, `total_ms` included."""
        return replace(self._timings, total_ms=(time.monotonic() - self._start) * 1000)
