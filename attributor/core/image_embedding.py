"""Embedding of one generated image: computed by the models, or by the client and checked here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from attributor.core.attribution import Embedded, ImageRequest, Stopwatch
from attributor.workers.decoder_pool import Decoder
from attributor.workers.model_worker import NO_WINDOWS, Features, ModelWorker
from gmvaluator.errors import InvalidInput, InvalidVector, ModelFailed, PreconditionFailed
from gmvaluator.index.vectors import checked_vector, checked_vectors
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Float32Array, Prepared
from gmvaluator.profile import ProfileIdentity
from gmvaluator.valuation.weights import quality_millionths
from gmvaluator.windows import WINDOWS

MAX_QUERY_VIEWS = 8
"""Maximum number of perceptual views of one image that a client may send."""


@contextmanager
def as_model_failure() -> Iterator[None]:
    """Raise ModelFailed in place of InvalidInput.

    Once the image was decoded, input that models, index or thumbnails refuse is not the caller's fault.
    """
    try:
        yield
    except InvalidInput as error:
        raise ModelFailed(f"the image could not be valued: {error}") from error


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image's features.

    local: its local features; None for a profile without, and where parts are not looked at. inputs: of the models, for
    a quality that is computed separately; None if the client sent an embedding. thumbnail: WebP of an image whose
    thumbnail will be stored.
    """

    facts: ImageFacts
    features: Features
    local: LocalFeatures | None = None
    inputs: Prepared | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class QueryEmbedder:
    """An embedder of generated images. scorer: computes quality if that is a separate model; None: `worker` does."""

    worker: ModelWorker
    decoder: Decoder
    scorer: ModelWorker | None

    async def embed(
        self, request: ImageRequest, parts: bool, stopwatch: Stopwatch, with_thumbnail: bool
    ) -> EmbeddedImage:
        """Return the features that the client sent, or decode and embed the image.

        parts: whether the policy counts parts of the image. Windows and local features take several times as long as
        the whole image, so that they are computed only then.
        """
        if request.embedded is not None:
            return self._checked(request.embedded)
        assert request.image is not None
        # Announced while it is decoded, so that a batch that is about to start may wait for it.
        with self.worker.coming():
            decoded = await self.decoder.decode(request.image, with_thumbnail, parts)
        stopwatch.lap("decode_ms")
        with as_model_failure():
            features = await self.worker.embed(decoded.inputs)
        stopwatch.record(queue_ms=features.queue_ms, embed_ms=features.embed_ms)
        return EmbeddedImage(decoded.facts, features, decoded.inputs.local, decoded.inputs, decoded.thumbnail)

    async def quality(self, image: EmbeddedImage) -> int:
        """Return the quality in millionths."""
        quality = image.features.quality
        if quality is None:
            assert image.inputs is not None
            quality = await (self.scorer or self.worker).quality(image.inputs)
        return quality_millionths(quality)

    def _checked(self, embedded: Embedded) -> EmbeddedImage:
        """Check a client's embedding.

        Raises InvalidVector, naming the vector, InvalidImage for an image that is too small, or PreconditionFailed for
        another profile's.
        """
        identity = self.worker.models.identity
        if embedded.profile_hash != identity.hash:
            raise PreconditionFailed(
                f"the embedding is of profile {embedded.profile_hash or 'nothing'}, and this attributor's is "
                f"{identity.name}, {identity.hash}: compute it with the same version of gmvaluator"
            )
        identity.check_size(embedded.facts.width, embedded.facts.height)
        recall = checked_vector(embedded.recall, identity.recall_dim, "embedding.recall")
        perceptual = _checked_views(embedded.perceptual, identity.perceptual_dim)
        windows = _checked_windows(embedded, identity)
        features = Features(recall, perceptual, embedded.quality, 0.0, 0.0, windows)
        return EmbeddedImage(embedded.facts, features, embedded.local)


def _checked_views(values: Float32Array, dimension: int) -> Float32Array:
    """Reshape (Q · P,) to (Q, P). Raises InvalidVector."""
    count, rest = divmod(len(values), dimension)
    if rest or not 1 <= count <= MAX_QUERY_VIEWS:
        raise InvalidVector(
            f"embedding.perceptual has {len(values)} numbers: give 1 to {MAX_QUERY_VIEWS} views of {dimension} each"
        )
    return checked_vectors(values.reshape(count, dimension), count, dimension, "embedding.perceptual")


def _checked_windows(embedded: Embedded, identity: ProfileIdentity) -> Float32Array:
    """Reshape the windows' vectors, (W · D,), to (W, D). Raises InvalidVector."""
    if not identity.windows:
        return NO_WINDOWS
    if embedded.local is None:
        raise InvalidVector(f"embedding.local_features is empty: profile {identity.name} needs the image's")
    count = len(WINDOWS)
    if len(embedded.windows) != count * identity.recall_dim:
        raise InvalidVector(
            f"embedding.windows has {len(embedded.windows)} numbers: profile {identity.name} needs {count} windows of "
            f"{identity.recall_dim} each"
        )
    windows = embedded.windows.reshape(count, identity.recall_dim)
    return checked_vectors(windows, count, identity.recall_dim, "embedding.windows")
