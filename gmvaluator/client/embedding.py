"""Embedding of images at the client, so that no pixel leaves the machine that generates them."""

from __future__ import annotations

import threading
from types import TracebackType

import numpy as np

from gmvaluator.errors import InvalidImage
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.v1 import attribution_pb2 as attribution_v1


class ImageEmbedder:
    """A profile's models in this process. Thread-safe, one image at a time.

    An image's embedding earns the same credits as the image itself, if profile and version are the attributor's.
    """

    def __init__(self, profile: str | ProfileChoice = "lite", device: str = "cpu", threads: int | None = None) -> None:
        """Load the models, which takes seconds. Raises UnknownProfile, MissingWeights, PreconditionFailed."""
        prepare_process()
        self._models = load_models(profile, device, threads)
        self._hash = self._models.identity.hash
        self._lock = threading.Lock()

    def embed(self, image: bytes) -> attribution_v1.Embedding:
        """Embed the file bytes of a JPEG, PNG or WebP, to be sent in their place. Raises InvalidImage, ModelFailed."""
        decoded = decode_image(image)
        self._models.identity.check_size(decoded.width, decoded.height)
        inputs = [self._models.prepare(decoded)]
        with self._lock:
            embeddings = self._models.embed(inputs)
            # Some profiles score quality by a model of its own.
            quality = self._models.quality(inputs) if embeddings.quality is None else embeddings.quality
        if not np.isfinite(quality).all():
            raise InvalidImage("the image's quality is not finite: send another image")
        local = inputs[0].local
        windows = [] if embeddings.windows is None else embeddings.windows[0].ravel().tolist()
        return attribution_v1.Embedding(
            profile_hash=self._hash,
            image_sha256=bytes.fromhex(sha256_hex(image)),
            width=decoded.width,
            height=decoded.height,
            size_bytes=len(image),
            recall=embeddings.recall[0].tolist(),
            perceptual=embeddings.perceptual[0].ravel().tolist(),
            quality=float(quality[0]),
            windows=windows,
            local_features=b"" if local is None else local.to_bytes(),
            mirrored_descriptors=b"" if local is None else local.mirrored.tobytes(),
        )

    def close(self) -> None:
        """Release the models' memory."""
        del self._models

    def __enter__(self) -> ImageEmbedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
