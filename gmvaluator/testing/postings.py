"""Sample postings and rights for tests of programs that read or write a ledger.

`sample_posting` builds postings with the real `build_posting` from seeded numbers, so that they equal what the ledger
receives. `FakeRights` is `ports.RightsReader` in memory.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from gmvaluator.accounts import owner_account
from gmvaluator.errors import UnknownGenerator
from gmvaluator.ids import OwnerId, TrainingImageId, generation_id, training_image_id
from gmvaluator.keypoints import GRID
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ImageFacts, NewPosting
from gmvaluator.ports import Beneficiary, Generator, WorkCard
from gmvaluator.profile import ProfileIdentity
from gmvaluator.valuation.parts import WHOLE, Sighting
from gmvaluator.valuation.policy import Policy, load_policy

SAMPLE_TIME = datetime(2026, 1, 31, 12, tzinfo=UTC)

SAMPLE_PROFILE = ProfileIdentity(
    name="sample",
    recall_model="recall",
    perceptual_model="perceptual",
    quality_model="quality",
    recall_dim=512,
    perceptual_dim=384,
    precision="fp32",
    weights={"backbone": "0" * 64},
)

_OWNERS = 7


def sample_work(number: int) -> TrainingImageId:
    """Return the id of the training image whose bytes are the number."""
    return training_image_id(hashlib.sha256(str(number).encode()).hexdigest())


def sample_owner(number: int) -> OwnerId:
    """Return an owner's id; the same number is the same owner."""
    return OwnerId(uuid.UUID(int=number + 1, version=4))


def sample_card(number: int) -> WorkCard:
    """Return the rights in `sample_work(number)`: mostly one owner, sometimes two, suspense or held."""
    first, second = sample_owner(number % _OWNERS), sample_owner((number + 1) % _OWNERS)
    rights: Sequence[tuple[OwnerId | None, str, int]] = [(first, owner_account(first), 1_000_000)]
    if number % 5 == 1:
        rights = [(first, owner_account(first), 333_333), (second, owner_account(second), 666_667)]
    elif number % 11 == 2:
        rights = [(None, "suspense", 1_000_000)]
    elif number % 13 == 3:
        rights = [(None, "held", 1_000_000)]
    beneficiaries = tuple(Beneficiary(account, owner, account, share) for owner, account, share in rights)
    return WorkCard(sample_work(number), f"work-{number}", "", beneficiaries)


def sample_posting(
    number: int,
    *,
    generation: str | None = None,
    identity: str = "local",
    model_version: str = "demo-1",
    image: str | None = None,
    contributors: int = 5,
) -> NewPosting:
    """Build posting `number`; the same arguments make the same posting. image: stands for the image's bytes."""
    chosen = random.Random(number).sample(range(100), contributors)  # noqa: S311 - a fixture, not a secret
    valued = ValuedImage(
        generator_identity=identity,
        generation_id=generation_id(generation or f"generation-{number}"),
        generated_at=SAMPLE_TIME,
        image=ImageFacts(hashlib.sha256((image or f"image-{number}").encode()).hexdigest(), 64, 64, 1000),
        model_version=model_version,
        collection="works",
        profile=SAMPLE_PROFILE,
        quality_millionths=(number * 7919) % 1_000_001,
        timings_ms={"embed_ms": 7.25},
    )
    candidates = [ScoredCandidate(sample_work(work), 10_000 * rank, 900_000) for rank, work in enumerate(chosen)]
    cards = {sample_work(work): sample_card(work) for work in chosen}
    return build_posting(valued, load_policy("paper@1"), candidates, cards)


PARTS_POLICY = Policy.from_parameters(
    {
        "policy": "parts@1",
        "depth": 200,
        "k": 50,
        "temperature": "0.03",
        "groups": "nearest",
        "residual": {"distance": "0.35"},
        "parts": {
            "windows": {"temperature": "0.034", "temperature_growth": "0.018", "distance": "0.28"},
            "verified": {"bias": "-7.5", "slope": "6.0"},
            "elsewhere": {"bias": "-3.6", "slope": "-0.5"},
        },
    }
)
"""A policy that counts works seen in parts of an image."""


def sample_collage(number: int = 0, *, identity: str = "local") -> NewPosting:
    """Build the posting of an image of 64 x 32 pixels, whose left half shows work 0 and whose right half work 1.

    Work 1 is the better verified and the smaller: the last four columns of the image are empty. Work 2 is only near.
    """
    left, right, content = (_box(start, end) for start, end in ((0, 8), (8, 12), (0, 12)))
    valued = ValuedImage(
        generator_identity=identity,
        generation_id=generation_id(f"collage-{number}"),
        generated_at=SAMPLE_TIME,
        image=ImageFacts(hashlib.sha256(f"collage-{number}".encode()).hexdigest(), 64, 32, 1000),
        model_version="demo-1",
        collection="works",
        profile=SAMPLE_PROFILE,
        quality_millionths=900_000,
        content=content,
    )
    candidates = [
        ScoredCandidate(sample_work(0), 520_000, 700_000, None, Sighting(left, 200_000, left, 24), WHOLE),
        ScoredCandidate(sample_work(1), 560_000, 600_000, None, Sighting(region=right, inliers=41), left),
        ScoredCandidate(sample_work(2), 450_000, 800_000),
    ]
    return build_posting(valued, PARTS_POLICY, candidates, {sample_work(work): sample_card(work) for work in range(3)})


def _box(left: int, right: int) -> int:
    """Return the mask of columns of the middle eight rows, which an image twice as wide as high fills."""
    return sum(1 << GRID * y + x for y in range(4, 12) for x in range(left, right))


_UNKNOWN = Beneficiary("suspense", None, "(owner unknown)", 1_000_000)


class FakeRights:
    """`ports.RightsReader` of given generators and cards; the rights of a work do not change with time."""

    def __init__(self, generators: Iterable[Generator] = (), cards: Iterable[WorkCard] = ()) -> None:
        self._generators = {generator.model_version: generator for generator in generators}
        self._cards = {card.training_image_id: card for card in cards}

    @classmethod
    def with_owners(
        cls,
        generators: Iterable[Generator],
        owner_of: Mapping[TrainingImageId, OwnerId],
    ) -> FakeRights:
        """Return rights in which every work has one owner, named by the first characters of the UUID."""
        return cls(generators, (_sole(work, owner_id) for work, owner_id in owner_of.items()))

    def generator(self, model_version: str) -> Generator:
        """Return the generator of this name. Raises UnknownGenerator."""
        try:
            return self._generators[model_version]
        except KeyError:
            known = ", ".join(sorted(self._generators)) or "none"
            raise UnknownGenerator(f"no generator {model_version!r} is registered (known: {known})") from None

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:  # noqa: ARG002
        """Return the cards of `ids`; an unknown work is paid to suspense."""
        return {work: self._cards.get(work, WorkCard(work, "", "", (_UNKNOWN,))) for work in ids}

    def claimed_works(self, owner_id: OwnerId, ids: Collection[TrainingImageId]) -> set[TrainingImageId]:
        """Return those of `ids` whose card names the owner."""
        cards = {work: self._cards[work] for work in ids if work in self._cards}
        return {work for work, card in cards.items() if owner_id in {right.owner_id for right in card.beneficiaries}}

    def cached_works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard] | None:  # noqa: ARG002
        """Return None: nothing is cached, so the caller reads `works`."""
        return None


def _sole(work: TrainingImageId, owner_id: OwnerId) -> WorkCard:
    name = f"owner {str(owner_id)[:8]}"
    return WorkCard(work, str(work), "", (Beneficiary(owner_account(owner_id), owner_id, name, 1_000_000),))
