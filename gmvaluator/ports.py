"""Ports: small protocols for models, index and catalogue, and the values that cross them.

Adapters are in `models/`, `index/` and `catalogue/`; fakes for tests in `gmvaluator.testing`.
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

    from gmvaluator.keypoints import LocalFeatures
    from gmvaluator.profile import ProfileIdentity

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of a batch of B generated images.

    recall: (B, D) float32, unit norm. perceptual: (B, Q, P) float32, unit norm, Q views of each image; the perceptual
    distance to a training image is 1 - the largest cosine between a view of either. quality: (B,) float32 in [0, 1],
    higher is better, or None if quality is a separate model, which `QueryModels.quality` runs. windows: recall
    embeddings of each image's windows, (W, D) of unit norm, or (0, D) for an image that came without; None for a
    profile without windows.
    """

    recall: Float32Array
    perceptual: Float32Array
    quality: Float32Array | None
    windows: Sequence[Float32Array] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One preprocessed image: the input arrays of a profile's models, opaque to everything else.

    One array for each model, of the shape and dtype that the model defines; models with equal inputs share one array,
    and it is empty if the model is absent or not run. The arrays are never written to. windows: the input from which
    a generated image's windows are embedded; None for a profile without windows, and for training images. local: the
    image's local features; None for a profile without them.
    """

    recall: npt.NDArray[Any]
    perceptual: npt.NDArray[Any]
    quality: npt.NDArray[Any]
    windows: npt.NDArray[Any] | None = None
    local: LocalFeatures | None = None

    @classmethod
    def shared(cls, inputs: npt.NDArray[Any]) -> Prepared:
        """Create an instance with one array as the input of every model."""
        return cls(inputs, inputs, inputs)


class Prepare(Protocol):
    """The function `QueryModels.prepare`."""

    def __call__(self, image: Image, parts: bool = True) -> Prepared: ...


@dataclass(frozen=True, slots=True)
class WorkEmbeddings:
    """Embeddings of B training images, each in V views.

    recall: (B, D) float32, unit norm, of the whole image. perceptual: (B, V, P) float32, unit norm.
    """

    recall: Float32Array
    perceptual: Float32Array


class QueryModels(Protocol):
    """A profile's models on one device, for generated images.

    Not thread-safe: one thread calls `embed` and `quality`.
    """

    @property
    def identity(self) -> ProfileIdentity: ...

    def prepare(self, image: Image, parts: bool = True) -> Prepared:
        """Preprocess an RGB image. Thread-safe, also while the models run.

        parts: prepare what works in parts of the image are found by, windows and local features, as well. It takes
        longer than all else, and windows take several times as long to embed as the whole image.
        """

    def embed(self, inputs: Sequence[Prepared]) -> Embeddings:
        """Embed B preprocessed images. Each row depends on its own image only.

        Raises ModelFailed, naming the row, if a row is not finite.
        """

    def quality(self, inputs: Sequence[Prepared]) -> Float32Array:
        """Return the quality of B preprocessed images: (B,) float32 in [0, 1], higher is better."""

    def quality_slice(self, inputs: Sequence[Prepared]) -> Sequence[float | None]:
        """Compute for a few seconds at most; return qualities, and None for images that are not finished.

        Call it again with the same inputs to continue; the caller can run `embed` in between. Repeating it until no
        value is None gives `quality`.
        """


class Models(QueryModels, Protocol):
    """A profile's models on one device, for generated and training images."""

    def prepare_work(self, image: Image) -> Sequence[Prepared]:
        """Preprocess the V views of an RGB training image; the first is the whole image."""

    def embed_works(self, inputs: Sequence[Sequence[Prepared]]) -> WorkEmbeddings:
        """Embed B preprocessed training images. Raises ModelFailed, naming the row."""


@dataclass(frozen=True, slots=True)
class Point:
    """One training image in the index. recall: (D,), perceptual: (V, P), both of unit norm."""

    training_image_id: TrainingImageId
    recall: Float32Array
    perceptual: Float32Array
    payload: Mapping[str, Any]


class Candidate(NamedTuple):
    """A training image near a query; `clip_similarity` in [-1, 1], higher is nearer."""

    training_image_id: TrainingImageId
    clip_similarity: float
    payload: Mapping[str, Any] = MappingProxyType({})


class Neighbour(NamedTuple):
    """A re-ranked candidate; `perceptual_distance` in [0, 2], lower is nearer."""

    training_image_id: TrainingImageId
    perceptual_distance: float


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """State of a collection. ready: no point waits to be indexed or quantised."""

    name: str
    points: int
    indexed_points: int
    ready: bool
    metadata: Mapping[str, Any]


class VectorStore(Protocol):
    """Write access to a collection of the index, for the indexer and for checks. Methods block."""

    def create(self, identity: ProfileIdentity) -> None:
        """Create the collection if it is absent. Raises ProfileMismatch if it belongs to another profile."""

    def info(self) -> CollectionInfo: ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; on return they survive a crash of the engine. Raises InvalidVector before writing any."""

    def existing(self, ids: Sequence[TrainingImageId]) -> set[TrainingImageId]: ...

    def remove(self, ids: Sequence[TrainingImageId]) -> None:
        """Delete those of `ids` that are stored: no search finds them any more. Their bytes stay until a purge."""

    def join_data_set(self, ids: Sequence[TrainingImageId], data_set: str) -> None:
        """Add those of `ids` that are stored to `data_set`; they stay in their other data sets."""

    def ungroup(self, firsts: Sequence[TrainingImageId]) -> None:
        """Dissolve the groups whose first works are `firsts`; their members become ungrouped."""

    def ungrouped(self) -> list[TrainingImageId]:
        """Return works that were not yet compared for near-duplicates."""

    def fetch(self, ids: Sequence[TrainingImageId]) -> list[Point]:
        """Return those of `ids` that are stored, with their vectors and without their local features."""

    def neighbours(self, vectors: Sequence[Float32Array], limit: int) -> list[list[Candidate]]:
        """Return the `limit` nearest works of each `recall` vector, nearest first, with the group in the payload."""

    def set_group(self, ids: Sequence[TrainingImageId], group: str) -> None:
        """Record the group of works: the id of its first work, or `index.schema.ALONE` without near-duplicates."""

    def group_members(self, work: TrainingImageId, limit: int) -> list[TrainingImageId] | None:
        """Return the first `limit` members of the group of `work`, including itself, in id order.

        Empty if it has no near-duplicates; None if it is not stored or was not yet compared.
        """

    def defer_indexing(self) -> None:
        """Stop indexing until `build` is called; until then the collection is not `ready`."""

    def build(self) -> None:
        """Index and quantise everything that was written; return once `info().ready`."""

    def scan(self, with_vectors: bool = False) -> Iterable[Point]:
        """Yield every point, in id order; with empty vectors and without local features unless `with_vectors`."""

    def close(self) -> None: ...


class CandidateSearch(Protocol):
    """Search access to a collection of the index, for the attributor. Asynchronous."""

    async def recall(self, vector: Float32Array, depth: int, data_sets: Sequence[str] | None = None) -> list[Candidate]:
        """Return the `depth` nearest works by `recall` vector, nearest first; of `data_sets` only, if given."""

    async def recall_with_windows(
        self,
        vector: Float32Array,
        depth: int,
        windows: Float32Array,
        window_depth: int,
        data_sets: Sequence[str] | None = None,
    ) -> tuple[list[Candidate], list[list[Candidate]]]:
        """Return `recall` of `vector`, and the `window_depth` nearest of each row of `windows`, (W, D), in one call."""

    async def rerank(self, vectors: Float32Array, ids: Sequence[TrainingImageId], k: int) -> list[Neighbour]:
        """Return the k of `ids` that are nearest to any of the `perceptual` vectors, (Q, P), nearest first."""

    async def local_features(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, LocalFeatures]:
        """Return the local features of those of `ids` that are stored and have any."""

    async def info(self) -> CollectionInfo: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Generator:
    """A registered generator: the data sets it was trained on, the collection searched, and the policy."""

    model_version: str
    collection: str
    data_sets: tuple[str, ...]
    policy: str


@dataclass(frozen=True, slots=True)
class Beneficiary:
    """An account that is paid for a work, and its part.

    account: "owner:<uuid>", "suspense" (owner unknown) or "held" (claims compete). owner_id: None for the latter two.
    share_ppm: parts per million.
    """

    account: str
    owner_id: OwnerId | None
    display_name: str
    share_ppm: int


@dataclass(frozen=True, slots=True)
class WorkCard:
    """The description of a training image and its beneficiaries.

    claim_number: position of its earliest valid claim among all that were ever recorded; None without a claim.
    """

    training_image_id: TrainingImageId
    key: str
    title: str
    beneficiaries: tuple[Beneficiary, ...]
    claim_number: int | None = None


class RightsReader(Protocol):
    """Read access to the catalogue: generators, and rights to works. Methods block for milliseconds."""

    def generator(self, model_version: str) -> Generator:
        """Return a registered generator. Raises UnknownGenerator."""

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        """Return a card for each of `ids`, with the rights valid at `at`; a work's shares sum to 1,000,000 ppm.

        An id that is not in the catalogue has a card too, which is paid to "suspense".
        """
