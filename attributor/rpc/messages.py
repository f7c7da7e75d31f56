"""Conversion between protobuf messages and the attributor's own types; requests are checked here, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from attributor.core.attribution import Attribution, Contributor, Embedded, ImageRequest, Payee, Stage
from attributor.workers.decoder_pool import EncodedImage
from gmvaluator.errors import ImageTooLarge, InvalidInput, InvalidVector
from gmvaluator.ids import GenerationId, TrainingImageId, generation_id
from gmvaluator.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from gmvaluator.keypoints import DESCRIPTOR_DIM, MAX_IMAGE_KEYPOINTS, LocalFeatures
from gmvaluator.ledger.records import ImageFacts, StoredPosting
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.valuation.parts import mask_bytes

MAX_NAME_CHARACTERS = 200
MAX_DIMENSIONS = 65_536
SHA256_BYTES = 32
EARLIEST, LATEST = datetime(2014, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Limits of `generated_at` that are no clock's fault; `attributor.core.clock` judges the times between."""

_CACHED_WORKS = 100_000

_STAGES = {
    Stage.RECALLED: attribution_v1.STAGE_RECALLED,
    Stage.RERANKED: attribution_v1.STAGE_RERANKED,
    Stage.FINAL: attribution_v1.STAGE_FINAL,
}


def image_request(message: attribution_v1.AttributeRequest, generator_identity: str) -> ImageRequest:
    """Check an AttributeRequest. Raises InvalidInput, naming the field."""
    embedded = message.WhichOneof("content") == "embedding"
    return ImageRequest(
        generator_identity=generator_identity,
        generation_id=generation_id(message.generation_id),
        model_version=_name(message.model_version, "model_version"),
        image=None if embedded else _image(message.image),
        embedded=_embedded(message.embedding) if embedded else None,
        generated_at=_generated_at(message.generated_at if message.HasField("generated_at") else None),
    )


def preview_request(message: attribution_v1.PreviewRequest, generator_identity: str) -> ImageRequest:
    """Check a PreviewRequest. Raises InvalidInput, naming the field."""
    return ImageRequest(
        generator_identity=generator_identity,
        generation_id=GenerationId(""),
        model_version=_name(message.model_version, "model_version"),
        image=_image(message.image),
        generated_at=datetime.now(UTC),
        policy=_name(message.policy, "policy") if message.policy else "",
    )


def _name(text: str, field: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_CHARACTERS or not text.isprintable():
        raise InvalidInput(f"{field} {text[:60]!r} is refused: give 1-{MAX_NAME_CHARACTERS} printable characters")
    return text


def _image(data: bytes) -> EncodedImage:
    if not data:
        raise InvalidInput("the request holds no image: set `image` to the bytes of a JPEG, PNG or WebP file")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: send a smaller one")
    return EncodedImage.parse(data)


def _embedded(message: attribution_v1.Embedding) -> Embedded:
    if max(len(message.recall), len(message.perceptual), len(message.windows)) > MAX_DIMENSIONS:
        raise InvalidInput(f"embedding is refused: a vector has at most {MAX_DIMENSIONS:,} dimensions")
    if len(message.image_sha256) != SHA256_BYTES:
        raise InvalidInput(f"embedding.image_sha256 has {len(message.image_sha256)} bytes: give {SHA256_BYTES}")
    if not 0 <= message.quality <= 1:  # also refuses nan
        raise InvalidInput(f"embedding.quality {message.quality} is refused: give 0 to 1")
    if min(message.width, message.height) < 1 or message.width * message.height > MAX_IMAGE_PIXELS:
        raise InvalidInput(
            f"embedding of {message.width} x {message.height} pixels is refused: the limit is {MAX_IMAGE_PIXELS:,}"
        )
    if not 1 <= message.size_bytes <= MAX_IMAGE_BYTES:
        raise InvalidInput(f"embedding.size_bytes {message.size_bytes} is refused: give 1 to {MAX_IMAGE_BYTES:,}")
    return Embedded(
        profile_hash=message.profile_hash[:MAX_NAME_CHARACTERS],
        facts=ImageFacts(message.image_sha256.hex(), message.width, message.height, message.size_bytes),
        recall=np.array(message.recall, np.float32),
        perceptual=np.array(message.perceptual, np.float32),
        quality=message.quality,
        windows=np.array(message.windows, np.float32),
        local=_local_features(message),
    )


def _local_features(message: attribution_v1.Embedding) -> LocalFeatures | None:
    """Return the local features of an embedding; None if it has none. Raises InvalidVector."""
    if not message.local_features:
        return None
    features = LocalFeatures.from_bytes(message.local_features, MAX_IMAGE_KEYPOINTS)
    mirrored = np.frombuffer(message.mirrored_descriptors, np.int8)
    if mirrored.size != features.descriptors.size:
        raise InvalidVector(
            f"embedding.mirrored_descriptors has {mirrored.size} bytes: give {DESCRIPTOR_DIM} for each of its "
            f"{len(features)} keypoints"
        )
    return replace(features, mirrored=mirrored.reshape(features.descriptors.shape))


def _generated_at(stamp: Timestamp | None) -> datetime:
    if stamp is None:
        return datetime.now(UTC)
    try:
        moment = stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"generated_at is no time: {error}") from error
    if not EARLIEST <= moment < LATEST:
        raise InvalidInput(f"generated_at {moment.isoformat()} is refused: give a time from 2014 to now, UTC")
    return moment


def attribution_message(attribution: Attribution) -> attribution_v1.Attribution:
    """Convert one stage to its message."""
    return attribution_v1.Attribution(
        generation_id=attribution.generation_id,
        model_version=attribution.model_version,
        stage=_STAGES[attribution.stage],
        contributors=[_contributor(contributor) for contributor in attribution.contributors],
        unattributed_share=attribution.unattributed_share,
        quality=attribution.quality,
        issued_micros=attribution.issued_micros,
        unattributed_micros=attribution.unattributed_micros,
        unattributed_share_low=attribution.unattributed_share_low,
        unattributed_share_high=attribution.unattributed_share_high,
        policy=attribution.policy,
        sequence=attribution.sequence,
        head_hash=attribution.head_hash,
        replayed=attribution.replayed,
        timings=attribution_v1.StageTimings(**attribution.timings.as_dict()),
    )


def _contributor(contributor: Contributor) -> attribution_v1.Contributor:
    # Parsed from cached bytes where possible: the same works recur, and setting each field costs more.
    serialized = _serialized_work(contributor.training_image_id, contributor.key, contributor.title)
    message = attribution_v1.Contributor.FromString(serialized)
    message.clip_similarity = contributor.clip_similarity
    message.share = contributor.share
    if contributor.perceptual_distance is not None:
        message.perceptual_distance = contributor.perceptual_distance
    if contributor.duplicate_group is not None:
        message.duplicate_group = str(contributor.duplicate_group)
    if contributor.competing:
        message.competing = True
    if contributor.share_low is not None and contributor.share_high is not None:
        message.share_low, message.share_high = contributor.share_low, contributor.share_high
    if contributor.visible is not None:
        inliers, image_cells, work_cells, image_share = contributor.visible
        message.visible.inliers, message.visible.image_share = inliers, image_share
        message.visible.image_cells, message.visible.work_cells = mask_bytes(image_cells), mask_bytes(work_cells)
    if contributor.credit_micros is not None:
        message.credit_micros = contributor.credit_micros
        message.payees.extend(map(_payee, contributor.payees))
    else:
        message.MergeFromString(_serialized_payees(contributor.payees))
    return message


@lru_cache(maxsize=_CACHED_WORKS)
def _serialized_work(training_image_id: TrainingImageId, key: str, title: str) -> bytes:
    """Serialize the fields of a contributor that are the same for every image."""
    message = attribution_v1.Contributor(training_image_id=str(training_image_id), key=key, title=title)
    return bytes(message.SerializeToString())


@lru_cache(maxsize=_CACHED_WORKS)
def _serialized_payees(payees: tuple[Payee, ...]) -> bytes:
    """Serialize payees whose amounts are not known yet."""
    return bytes(attribution_v1.Contributor(payees=map(_payee, payees)).SerializeToString())


def _payee(payee: Payee) -> attribution_v1.Payee:
    return attribution_v1.Payee(
        account=payee.account,
        display_name=payee.display_name,
        share_ppm=payee.share_ppm,
        credit_micros=payee.credit_micros,
    )


def posting_message(posting: StoredPosting) -> royalty_v1.WatchRoyaltiesResponse:
    """Convert a posting to the message of WatchRoyalties."""
    header = posting.header
    return royalty_v1.WatchRoyaltiesResponse(
        sequence=posting.sequence,
        generation_id=header.generation_id,
        model_version=header.model_version or "",
        generated_at=_timestamp(header.generated_at),
        posted_at=_timestamp(header.posted_at),
        issued_micros=header.issued_micros,
        changes=[
            royalty_v1.RoyaltyChange(account=account, amount_micros=amount)
            for account, amount in posting.changes().items()
        ],
        head_hash=bytes.fromhex(posting.hash),
    )


def _timestamp(utc_text: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromJsonString(utc_text)
    return stamp
