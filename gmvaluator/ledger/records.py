"""Records of the ledger as frozen values: a posting's header, its entries and its evidence.

A *posting* is what one generation, or one decision, causes. An *entry* is one line of it: an account and an amount. The
entries of a posting sum to zero; issuance is the negative side. *Evidence* is everything that the credits were computed
from. It names accounts and training images, never people, so that erasing a person changes no posting.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

from gmvaluator.accounts import ISSUANCE
from gmvaluator.ids import GenerationId, TrainingImageId
from gmvaluator.ledger.hash_chain import canonical_json, entries_digest, evidence_digest, header_hash
from gmvaluator.valuation.parts import Sighting, read_mask

ATTRIBUTION = "attribution"
"""Kind of a posting caused by one generated image."""

ATTRIBUTOR, CLIENT = "attributor", "client"
"""Values of `embedded_by`: who computed an image's vectors and quality."""

EVIDENCE_FORMAT = 1

# Fields of a contribution that are left out of the evidence where they are None or False. They were added later,
# and the bytes of older evidence, which are hashed, must stay what they were.
_OPTIONAL_FIELDS = (
    *("group", "claim_number", "competing", "interval", "held_for"),
    *("window", "window_distance_millionths", "inliers", "region", "work_region"),
)

# zlib level 1 saves three quarters of what level 6 saves, in a third of the time.
_COMPRESSION = 1


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The generated image as it was received: SHA-256 of the file, size in pixels, length in bytes."""

    sha256: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Payment:
    """The part of a contributor's credit that one account receives. share_ppm: parts per million of it."""

    account: str
    share_ppm: int
    credit_micros: int


@dataclass(frozen=True, slots=True)
class Contribution:
    """One contributor, as paid. rank: 1 is the nearest. share: of the issue, in [0, 1], for people to read.

    distance_millionths: lower is nearer. clip_similarity_millionths: higher is nearer. `payments` sum to
    `credit_micros`.

    group: the first of the near-duplicates that were valued as one contributor and share its rank, as the index stored
    it. claim_number: position of the work's earliest claim among all that were recorded. competing: True if another
    member's claim is earlier and takes the credit. interval: lowest and highest share of the rank, in millionths, if
    the policy has intervals. held_for: rights in (account, ppm), if the credit was held back because the share is too
    uncertain. Fields that do not apply are None (False) and are not in the evidence.
    """

    rank: int
    training_image_id: TrainingImageId
    distance_millionths: int
    clip_similarity_millionths: int
    share: float
    credit_micros: int
    payments: tuple[Payment, ...]
    group: TrainingImageId | None = None
    claim_number: int | None = None
    competing: bool = False
    interval: tuple[int, int] | None = None
    held_for: tuple[tuple[str, int], ...] | None = None
    window: str | None = None
    window_distance_millionths: int | None = None
    inliers: int | None = None
    region: str | None = None
    work_region: str | None = None

    @property
    def sighting(self) -> Sighting:
        """Where the work was seen in parts of the image. Raises ValueError for a mask that is none."""
        return Sighting(
            read_mask(self.window) if self.window else 0,
            self.window_distance_millionths or 0,
            read_mask(self.region) if self.region else 0,
            self.inliers or 0,
        )

    @property
    def work_mask(self) -> int:
        """Mask of the part of the work that was verified; 0 if none was."""
        return read_mask(self.work_region) if self.work_region else 0

    @property
    def rights(self) -> tuple[tuple[str, int], ...]:
        """(account, ppm) pairs of those who had the rights, even if the credit was held back from them."""
        if self.held_for is not None:
            return self.held_for
        return tuple((payment.account, payment.share_ppm) for payment in self.payments)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A contributor just after the cut at k, which is ranked and not paid."""

    rank: int
    training_image_id: TrainingImageId
    distance_millionths: int


class HeaderFacts(NamedTuple):
    """Fields of a posting's header that come from its evidence; None where a kind of posting has none."""

    image_sha256: str | None = None
    model_version: str | None = None
    policy: str | None = None
    profile_hash: str | None = None
    issued_micros: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a posting's credits follow from, and the circumstances of the valuation.

    policy: `Policy.parameters()`. weights: role of each weight file to its SHA-256. contributions: nearest first.
    timings_ms: stage to milliseconds. embedded_by: who computed vectors and quality; those of a CLIENT are not checked.
    uncertainty: interval of the unattributed share in millionths, with the index's measured recall and the number of
    candidates that were recalled and not listed; None if the policy has no intervals. content: mask of the cells of the
    image that show anything, 64 hex digits (see `valuation.parts`); None if parts were not examined.
    """

    image: ImageFacts
    model_version: str
    collection: str
    policy: Mapping[str, Any]
    profile: str
    profile_hash: str
    weights: Mapping[str, str]
    quality_millionths: int
    issued_micros: int
    unattributed_micros: int
    unattributed_share: float
    contributions: tuple[Contribution, ...]
    near_misses: tuple[NearMiss, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    embedded_by: str = ATTRIBUTOR
    uncertainty: Mapping[str, Any] | None = None
    content: str | None = None

    @property
    def header_facts(self) -> HeaderFacts:
        """The fields of the posting's header."""
        policy = self.policy["policy"]
        return HeaderFacts(self.image.sha256, self.model_version, policy, self.profile_hash, self.issued_micros)

    def to_json(self) -> bytes:
        """Return canonical JSON, the bytes that are stored and hashed."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        value["format"] = EVIDENCE_FORMAT
        value["image"] = _plain(self.image)
        value["contributions"] = [_plain_contribution(contribution) for contribution in self.contributions]
        value["near_misses"] = [_plain(miss) for miss in self.near_misses]
        value["policy"], value["weights"] = dict(self.policy), dict(self.weights)
        value["timings_ms"] = dict(self.timings_ms)
        # These were added later: evidence that needs none of them keeps the bytes that it had before.
        if self.embedded_by == ATTRIBUTOR:
            del value["embedded_by"]
        for name in ("uncertainty", "content"):
            if value[name] is None:
                del value[name]
        return canonical_json(value)

    @classmethod
    def from_json(cls, text: bytes) -> Evidence:
        """Parse the result of `to_json`. Raises ValueError, KeyError or TypeError if `text` has another format."""
        value = json.loads(text)
        if value.pop("format") != EVIDENCE_FORMAT:
            raise ValueError("evidence of an unknown format: upgrade gmvaluator")
        value["image"] = ImageFacts(**value["image"])
        value["contributions"] = tuple(_contribution(item) for item in value["contributions"])
        value["near_misses"] = tuple(NearMiss(**_with_id(item)) for item in value["near_misses"])
        return cls(**value)


class Entry(NamedTuple):
    """One line of a posting; a positive amount is a credit to `account`.

    training_image_id: the work that is paid for; None for lines that belong to no work.
    """

    account: str
    training_image_id: TrainingImageId | None
    amount_micros: int


def sum_by_account(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the micro-credits of the entries by account, in the order in which accounts first occur."""
    sums: Counter[str] = Counter()
    for entry in entries:
        sums[entry.account] += entry.amount_micros
    return dict(sums)


class Encoded:
    """A new posting's stored and hashed form, each part computed at its first use and then kept.

    `encode` computes all parts at once, which lets callers do it outside the ledger's only writer thread.
    """

    entries: tuple[Entry, ...]
    evidence_json: bytes

    @cached_property
    def lines(self) -> list[tuple[int, str, str | None, int]]:
        """The entries as rows of the database without the sequence: line, account, work as 32 hex digits, amount."""
        return [
            (line, entry.account, _hex(entry.training_image_id), entry.amount_micros)
            for line, entry in enumerate(self.entries)
        ]

    @cached_property
    def sums(self) -> dict[str, int]:
        """Micro-credits by account."""
        return sum_by_account(self.entries)

    @cached_property
    def entries_digest(self) -> str:
        """The digest of the entries, see `hash_chain.entries_digest`."""
        return entries_digest(self.entries)

    @cached_property
    def evidence_digest(self) -> str:
        """The digest of the evidence, see `hash_chain.evidence_digest`."""
        return evidence_digest(self.evidence_json)

    @cached_property
    def evidence_body(self) -> bytes:
        """The evidence as it is stored in the database, compressed."""
        return zlib.compress(self.evidence_json, _COMPRESSION)

    def encode(self) -> None:
        """Compute all parts now. Raises ValueError if the evidence holds a number that is not finite."""
        _ = self.lines, self.sums, self.entries_digest, self.evidence_digest, self.evidence_body


@dataclass(frozen=True)
class NewPosting(Encoded):
    """A posting of a generation, to be made. Its key, (generator_identity, generation_id), can be used only once.

    generator_identity: the caller, as authenticated. generated_at: when the image was generated, as the caller states;
    it decides which rights apply and which period the posting belongs to. `entries` sum to zero.
    """

    generator_identity: str
    generation_id: GenerationId
    generated_at: datetime
    entries: tuple[Entry, ...]
    evidence: Evidence
    kind: str = ATTRIBUTION

    @cached_property
    def evidence_json(self) -> bytes:  # type: ignore[override]
        """The evidence as it is hashed."""
        return self.evidence.to_json()

    @property
    def header_facts(self) -> HeaderFacts:
        """Fields of the header that come from the evidence."""
        return self.evidence.header_facts

    @property
    def key(self) -> tuple[str, str]:
        """(generator_identity, generation_id), unique in the ledger."""
        return self.generator_identity, self.generation_id


@dataclass(frozen=True, slots=True)
class PostingHeader:
    """The row of a posting that its hash covers. Hashes are SHA-256, 64 hex digits; instants are `utc_text`.

    previous_hash: the hash of posting sequence - 1, or 64 zeros for the first.
    """

    sequence: int
    kind: str
    generator_identity: str
    generation_id: str
    image_sha256: str | None
    model_version: str | None
    policy: str | None
    profile_hash: str | None
    generated_at: str
    posted_at: str
    issued_micros: int
    entries_digest: str
    evidence_digest: str
    previous_hash: str

    def as_dict(self) -> dict[str, Any]:
        """Return the values by column."""
        return dict(zip(self.__dataclass_fields__, self.values(), strict=True))

    def values(self) -> tuple[Any, ...]:
        """Return the values in the order of the columns."""
        return _header_values(self)

    def chain_hash(self) -> str:
        """Return the chain's hash at this posting, computed from the header."""
        return header_hash(self.as_dict())


@dataclass(frozen=True)
class StoredPosting:
    """A posting as the ledger stores it. hash: the chain's hash at its sequence."""

    header: PostingHeader
    hash: str
    entries: tuple[Entry, ...]
    evidence_json: bytes

    @cached_property
    def evidence(self) -> Evidence:
        """The evidence that the credits were computed from; only for postings of generations."""
        return Evidence.from_json(self.evidence_json)

    @property
    def sequence(self) -> int:
        """Position in the ledger, from 1 without gaps."""
        return self.header.sequence

    @property
    def key(self) -> tuple[str, str]:
        """(generator_identity, generation_id)."""
        return self.header.generator_identity, self.header.generation_id

    def changes(self) -> dict[str, int]:
        """Return the micro-credits that each account received, without issuance, by account name ascending."""
        sums = sum_by_account(entry for entry in self.entries if entry.account != ISSUANCE)
        return dict(sorted(sums.items()))


# attrgetter reads all fields in one call, which the writer does for every posting.
_header_values: Callable[[PostingHeader], tuple[Any, ...]] = attrgetter(*PostingHeader.__dataclass_fields__)


def _hex(work: TrainingImageId | None) -> str | None:
    return None if work is None else work.hex


def _plain(record: Any) -> dict[str, Any]:
    value = {name: getattr(record, name) for name in record.__dataclass_fields__}
    if "training_image_id" in value:
        value["training_image_id"] = str(value["training_image_id"])
    return value


def _plain_contribution(contribution: Contribution) -> dict[str, Any]:
    value = {**_plain(contribution), "payments": [_plain(payment) for payment in contribution.payments]}
    if contribution.group is not None:
        value["group"] = str(contribution.group)
    for name in _OPTIONAL_FIELDS:
        if value[name] is None or value[name] is False:
            del value[name]
    return value


def _with_id(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "training_image_id": TrainingImageId(uuid.UUID(value["training_image_id"]))}


def _contribution(value: dict[str, Any]) -> Contribution:
    payments = tuple(Payment(**payment) for payment in value["payments"])
    fields = {**_with_id(value), "payments": payments}
    if "group" in fields:
        fields["group"] = TrainingImageId(uuid.UUID(fields["group"]))
    if "interval" in fields:
        low, high = fields["interval"]
        fields["interval"] = low, high
    if "held_for" in fields:
        fields["held_for"] = tuple((account, share) for account, share in fields["held_for"])
    return Contribution(**fields)
