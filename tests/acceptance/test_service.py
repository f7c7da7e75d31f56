"""The attributor over the wire, as a generation server meets it."""

import functools
import io
import struct
import uuid
import zlib
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image

from gmvaluator.client.connection import Connection
from gmvaluator.client.embedding import ImageEmbedder
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Conflict, GmvaluatorError, InvalidInput, NotFound, PreconditionFailed
from gmvaluator.v1 import attribution_pb2 as v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.programs import Attributor, gmvaluator


@functools.cache
def embedding_of(image: bytes) -> v1.Embedding:
    with ImageEmbedder("lite", threads=1) as embedder:
        return embedder.embed(image)


def fresh() -> str:
    return f"test:{uuid.uuid4()}"


def final(client: AttributorClient, image: bytes, generation: str) -> v1.Attribution:
    return list(client.attribute(image, generation, MODEL_VERSION))[-1]


def posted(client: AttributorClient) -> dict[str, int]:
    return {royalty.account: royalty.balance_micros for royalty in client.royalties()}


def test_three_stages_arrive_in_order(client: AttributorClient, images: list[bytes]) -> None:
    recalled, reranked, paid = client.attribute(images[0], fresh(), MODEL_VERSION)
    assert [recalled.stage, reranked.stage, paid.stage] == [v1.STAGE_RECALLED, v1.STAGE_RERANKED, v1.STAGE_FINAL]
    assert not any(one.HasField("credit_micros") for stage in (recalled, reranked) for one in stage.contributors)
    assert all(one.HasField("perceptual_distance") and one.payees for one in reranked.contributors)
    assert [one.share for one in paid.contributors] == [one.share for one in reranked.contributors]
    assert paid.timings.total_ms >= reranked.timings.total_ms >= recalled.timings.total_ms > 0


def test_contributors_are_nearest_first_and_shares_sum_to_one(client: AttributorClient, images: list[bytes]) -> None:
    recalled, reranked, _ = client.attribute(images[1], fresh(), MODEL_VERSION)
    similarities = [one.clip_similarity for one in recalled.contributors]
    distances = [one.perceptual_distance for one in reranked.contributors]
    assert similarities == sorted(similarities, reverse=True)
    assert distances == sorted(distances)
    for stage in (recalled, reranked):
        assert len(stage.contributors) == 50
        assert sum(one.share for one in stage.contributors) == pytest.approx(1)


def test_credits_sum_to_what_is_issued_and_quality_is_what_is_issued(
    client: AttributorClient, images: list[bytes]
) -> None:
    paid = final(client, images[2], fresh())
    assert sum(one.credit_micros for one in paid.contributors) + paid.unattributed_micros == paid.issued_micros
    assert paid.issued_micros == round(paid.quality * 1_000_000)
    for one in paid.contributors:
        assert sum(payee.credit_micros for payee in one.payees) == one.credit_micros
        assert sum(payee.share_ppm for payee in one.payees) == 1_000_000


def test_asking_again_answers_the_stored_posting_once(client: AttributorClient, images: list[bytes]) -> None:
    generation = fresh()
    first = final(client, images[3], generation)
    before = posted(client)
    again = list(client.attribute(images[3], generation, MODEL_VERSION))
    assert len(again) == 1
    assert again[0].replayed
    assert (again[0].sequence, again[0].head_hash) == (first.sequence, first.head_hash)
    assert again[0].contributors == first.contributors
    stored = client.get_attribution(generation)
    for answer in (stored, again[0]):
        answer.ClearField("timings")
    assert stored == again[0]
    assert posted(client) == before


def test_a_used_id_with_another_image_is_refused(client: AttributorClient, images: list[bytes]) -> None:
    generation = fresh()
    final(client, images[4], generation)
    before = posted(client)
    with pytest.raises(Conflict, match=r"image_sha256.*new generation_id"):
        final(client, images[5], generation)
    assert posted(client) == before


def test_a_preview_posts_nothing(client: AttributorClient, images: list[bytes]) -> None:
    before = posted(client)
    stages = list(client.preview(images[6], MODEL_VERSION))
    assert [stage.stage for stage in stages] == [v1.STAGE_RECALLED, v1.STAGE_RERANKED, v1.STAGE_FINAL]
    assert not stages[-1].HasField("sequence")
    assert stages[-1].issued_micros > 0
    assert posted(client) == before


def test_an_unknown_generation_is_not_found(client: AttributorClient) -> None:
    with pytest.raises(NotFound):
        client.get_attribution(fresh())


def test_an_unknown_generator_says_what_to_do(client: AttributorClient, images: list[bytes]) -> None:
    with pytest.raises(PreconditionFailed, match="gmvaluator generators add"):
        list(client.attribute(images[0], fresh(), "nobody-1"))


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


BAD_IMAGES = {
    "empty": b"",
    "text": b"hello, I am a text file" * 100,
    "truncated": encoded(Image.effect_noise((64, 64), 50))[:-400],
    "bomb": png(13_000, 13_000),
    "just too large": png(5_001, 5_000),
    "too many bytes": b"\xff\xd8" + b"\0" * (20 * 1024 * 1024),
}


@pytest.mark.parametrize("image", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_a_bad_image_is_an_invalid_argument_and_posts_nothing(client: AttributorClient, image: bytes) -> None:
    before, generation = posted(client), fresh()
    with pytest.raises(InvalidInput):
        final(client, image, generation)
    assert posted(client) == before
    with pytest.raises(NotFound):
        client.get_attribution(generation)


@pytest.mark.parametrize("generation", ["", "../../etc/passwd", "a b", "\u202eabc", "x" * 10_000])
def test_an_evil_generation_id_is_an_invalid_argument(
    client: AttributorClient, images: list[bytes], generation: str
) -> None:
    with pytest.raises(InvalidInput, match="generation_id"):
        final(client, images[0], generation)


@pytest.mark.parametrize("moment", [datetime(1999, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=2)])
def test_an_impossible_time_is_an_invalid_argument(
    client: AttributorClient, images: list[bytes], moment: datetime
) -> None:
    final(client, images[0], fresh())  # its time shows that the attributor's clock is right
    with pytest.raises(InvalidInput, match="generated_at"):
        list(client.attribute(images[0], fresh(), MODEL_VERSION, moment))


def test_a_clock_that_is_fast_is_no_fault_of_the_image(client: AttributorClient, images: list[bytes]) -> None:
    """An outbox sends it again until the time has come."""
    with pytest.raises(PreconditionFailed, match="ahead of this clock"):
        list(client.attribute(images[0], fresh(), MODEL_VERSION, datetime.now(UTC) + timedelta(hours=1)))


def test_royalties_are_paged_and_watching_resumes(client: AttributorClient, images: list[bytes]) -> None:
    for number in range(3):
        final(client, images[10 + number], fresh())
    assert {one.account: one.balance_micros for one in client.royalties(page_size=2)} == posted(client)
    watched = []
    for posting in client.watch_royalties():
        watched.append(posting)
        if len(watched) == 3:
            break
    assert [posting.sequence for posting in watched] == [1, 2, 3]
    assert next(client.watch_royalties(after_sequence=2)) == watched[2]
    for posting in watched:
        assert sum(change.amount_micros for change in posting.changes) == posting.issued_micros


def test_services_can_be_discovered(attributor: Attributor) -> None:
    with grpc.insecure_channel(attributor.address) as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"gmvaluator.v1.AttributionService", "gmvaluator.v1.RoyaltyService"} <= set(services)


def test_the_next_good_request_is_unaffected(client: AttributorClient, images: list[bytes]) -> None:
    for image in BAD_IMAGES.values():
        with pytest.raises(GmvaluatorError):
            final(client, image, fresh())
    assert final(client, images[0], fresh()).stage == v1.STAGE_FINAL


def test_many_images_on_one_stream_are_answered_by_their_ids(attributor: Attributor, images: list[bytes]) -> None:
    sent = {fresh(): image for image in [*images[20:28], b"no image"]}
    requests = [
        v1.AttributeStreamRequest(
            request=v1.AttributeRequest(generation_id=name, model_version=MODEL_VERSION, image=image)
        )
        for name, image in sent.items()
    ]
    with Connection(attributor.address).channel() as channel:
        answers = list(AttributionServiceStub(channel).AttributeStream(iter(requests), timeout=60))
    finals = [one.generation_id for one in answers if one.attribution.stage == v1.STAGE_FINAL]
    failed = [one for one in answers if one.HasField("failure")]
    assert sorted(finals) == sorted(name for name, image in sent.items() if image != b"no image")
    assert [(sent[one.generation_id], one.failure.code) for one in failed] == [(b"no image", 3)]


def test_an_embedding_in_place_of_the_image_earns_the_same_credits_and_is_flagged(
    client: AttributorClient, attributor: Attributor, images: list[bytes]
) -> None:
    by_image, by_embedding = fresh(), fresh()
    pixels = final(client, images[8], by_image)
    embedded = embedding_of(images[8])
    *_, vectors = client.attribute(embedded, by_embedding, MODEL_VERSION)
    assert [(one.training_image_id, one.credit_micros) for one in vectors.contributors] == [
        (one.training_image_id, one.credit_micros) for one in pixels.contributors
    ]
    assert (vectors.quality, vectors.issued_micros) == (pixels.quality, pixels.issued_micros)
    again = list(client.attribute(images[8], by_embedding, MODEL_VERSION))
    assert [stage.replayed for stage in again] == [True]
    explained = {
        name: gmvaluator("ledger", "explain", name, "--data", attributor.data)["evidence"].get("embedded_by")
        for name in (by_image, by_embedding)
    }
    assert explained == {by_image: None, by_embedding: "client"}


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("recall", [float("nan")] * 512, InvalidInput),
        ("recall", [float("inf")] * 512, InvalidInput),
        ("recall", [0.0] * 512, InvalidInput),
        ("perceptual", [1.0], InvalidInput),
        ("perceptual", [], InvalidInput),
        ("quality", float("nan"), InvalidInput),
        ("quality", 1.5, InvalidInput),
        ("image_sha256", b"short", InvalidInput),
        ("width", 0, InvalidInput),
        ("size_bytes", 2**40, InvalidInput),
        ("profile_hash", "0" * 64, PreconditionFailed),
    ],
)
def test_an_impossible_embedding_is_refused_and_posts_nothing(
    client: AttributorClient, images: list[bytes], field: str, value: object, error: type[Exception]
) -> None:
    embedded = v1.Embedding()
    embedded.CopyFrom(embedding_of(images[8]))
    embedded.ClearField(field)  # type: ignore[arg-type]
    if isinstance(value, list):
        getattr(embedded, field).extend(value)
    else:
        setattr(embedded, field, value)
    before = posted(client)
    with pytest.raises(error):
        list(client.attribute(embedded, fresh(), MODEL_VERSION))
    assert posted(client) == before
