"""What the method needs from outside, as small protocols, and the values that cross them.

Adapters live in `models/`, `index/`, `catalogue/` and `ledger/`; fakes for tests in `gmvaluator.testing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gmvaluator.ids import OwnerId, TrainingImageId

if TYPE_CHECKING:
    from PIL.Image import Image

    from gmvaluator.profile import ProfileIdentity

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What a profile makes of a batch of B images.

    recall: (B, D) float32, unit norm. perceptual: (B, Q, P) float32, unit norm, Q views of each image; its perceptual
    distance to a training image is 1 - the largest cosine of a view of the one and a view of the other. quality: (B,)
    float32 in [0, 1], higher is better, or None where quality is a model of its own and `QueryModels.quality` has to
    be asked.
    """

    recall: Float32Array
    perceptual: Float32Array
    quality: Float32Array | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as each of a profile's models takes it; only the profile that made it reads it.

    One array a model, of the shape and dtype that the model states; the same array where models agree on it, empty
    where a model is not there or not asked. They are never written to.
    """

    recall: npt.NDArray[Any]
    perceptual: npt.NDArray[Any]
    quality: npt.NDArray[Any]

    @classmethod
    def shared(cls, inputs: npt.NDArray[Any]) -> Prepared:
        """For a profile whose outputs all come from one input."""
        return cls(inputs, inputs, inputs)


@dataclass(frozen=True, slots=True)
class WorkEmbeddings:
    """What a profile makes of B training images, each seen in V views.

    recall: (B, D) float32, unit norm, of the whole image. perceptual: (B, V, P) float32, unit norm.
    """

    recall: Float32Array
    perceptual: Float32Array


class QueryModels(Protocol):
    """A profile's models on one device, as generated images need them.

    Not thread-safe: one owner thread calls `embed` and `quality`.
    """

    @property
    def identity(self) -> ProfileIdentity: ...

    def prepare(self, image: Image) -> Prepared:
        """RGB image to the models' inputs. Thread-safe; runs beside the models."""

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """B images from `prepare` to embeddings. Each row depends on its own image alone.

        Raises ModelFailed if a row is not finite, naming the row.
        """

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """B images from `prepare` to (B,) float32 in [0, 1], higher is better."""

    def quality_slice(self, inputs: Sequence[Prepared]) -> Sequence[float | None]:
        """A part of that work, seconds at most: qualities, and None for images that are not done.

        Called again with those, it goes on where it was; in between there is time for `embed`. `quality` is that
        until all is done.
        """


class Models(QueryModels, Protocol):
    """The same, as training images need them too."""

    def prepare_work(self, image: Image) -> Sequence[Prepared]:
        """RGB training image to the inputs of its V views; the first is the whole image."""

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """B training images from `prepare_work` to embeddings. Raises ModelFailed, naming the row."""


@dataclass(frozen=True, slots=True)
class Point:
    """One training image as the index stores it. recall: (D,), perceptual: (V, P), unit norm."""

    training_image_id: TrainingImageId
    recall: Float32Array
    perceptual: Float32Array
    payload: Mapping[str, Any]


class Candidate(NamedTuple):
    """One training image near a query: `clip_similarity` in [-1, 1], higher is nearer."""

    training_image_id: TrainingImageId
    clip_similarity: float
    payload: Mapping[str, Any] = MappingProxyType({})


class Neighbour(NamedTuple):
    """One re-ranked candidate: `perceptual_distance` in [0, 2], lower is nearer."""

    training_image_id: TrainingImageId
    perceptual_distance: float


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """State of a collection. `ready` is True once nothing waits to be built."""

    name: str
    points: int
    indexed_points: int
    ready: bool
    metadata: Mapping[str, Any]


class VectorStore(Protocol):
    """Writing side of the index, used by the indexer and by checks; blocking."""

    def create(self, identity: ProfileIdentity) -> None:
        """Make the collection if it is absent; otherwise check that `identity` is its own (ProfileMismatch)."""

    def info(self) -> CollectionInfo: ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; returns once they survive a crash of the engine. Raises InvalidVector before writing."""

    def existing(self, ids: Sequence[TrainingImageId]) -> set[TrainingImageId]: ...

    def remove(self, ids: Sequence[TrainingImageId]) -> None:
        """Delete those of `ids` that are stored: no search finds them from then on. Their bytes stay until a purge."""

    def join_data_set(self, ids: Sequence[TrainingImageId], data_set: str) -> None:
        """Let those of `ids` that are stored be found under `data_set` too."""

    def ungroup(self, firsts: Sequence[TrainingImageId]) -> None:
        """Let the members of groups whose first works are `firsts` be looked at anew."""

    def ungrouped(self) -> list[TrainingImageId]:
        """Works that nobody has looked at yet for near-copies."""

    def fetch(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        """Those of `ids` that are stored, with their vectors."""

    def neighbours(self, vectors: Sequence[Float32Array], limit: int) -> list[list[Candidate]]:
        """For each `recall` vector the `limit` nearest, most similar first, with the group in their payload."""

    def set_group(self, ids: Sequence[TrainingImageId], group: str) -> None:
        """Mark works as looked at: the id of the first of their near-copies, or `index.schema.ALONE`."""

    def group_members(self, work: TrainingImageId, limit: int) -> list[TrainingImageId] | None:
        """The first `limit` near-copies in the group of `work`, itself among them, in id order.

        Empty if it stands alone; None if it is not stored, or nobody has looked yet.
        """

    def defer_indexing(self) -> None:
        """Index nothing until `build`; until then the collection is not `ready`."""

    def build(self) -> None:
        """Index and quantise everything written so far; returns once `info().ready`."""

    def scan(self, with_vectors: bool = False) -> Iterable[Point]:
        """Every point, in id order; vectors are empty arrays unless asked for."""

    def close(self) -> None: ...


class CandidateSearch(Protocol):
    """Reading side of the index, used by the attributor; asynchronous."""

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """The `depth` nearest training images by `recall` vector, nearest first; only of `data_sets` if given."""

    async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        """The k of `ids` nearest to any of the image's `perceptual` vectors, (Q, P), nearest first."""

    async def info(self) -> CollectionInfo: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Generator:
    """An operator's entry for one generator: what it was trained on and how its images are valued."""

    model_version: str
    collection: str
    data_sets: tuple[str, ...]
    policy: str


@dataclass(frozen=True, slots=True)
class Beneficiary:
    """Who is paid for a work: an owner's UUID, or None for the account named in `account`.

    account: "owner:<uuid>", "suspense" (owner unknown) or "held" (claims compete). share_ppm: parts per million.
    """

    account: str
    owner_id: OwnerId | None
    display_name: str
    share_ppm: int


@dataclass(frozen=True, slots=True)
class WorkCard:
    """What may be shown of a training image.

    claim_number: place of its earliest valid claim among all that were ever recorded; None if nobody claims it.
    """

    training_image_id: TrainingImageId
    key: str
    title: str
    beneficiaries: tuple[Beneficiary, ...]
    claim_number: int | None = None


class RightsReader(Protocol):
    """Reading side of the catalogue, used by the attributor; blocking but short."""

    def generator(self, model_version: str) -> Generator:
        """Raises UnknownGenerator."""

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        """Cards of `ids` with the rights that were valid at `at`; shares of each work sum to 1,000,000 ppm.

        Every id is answered: one that the catalogue does not know is paid to "suspense".
        """


class OwnerNames(Protocol):
    """Names of owners, where known and not erased."""

    def display_names(self, owner_ids: Sequence[OwnerId]) -> dict[OwnerId, str]: ...
