"""Embeddings in place of images: numbers that a client claims, each of which is checked."""

import hashlib
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, new_token, now_utc, token_sha256
from gmvaluator.testing.models import FAKE_IDENTITY
from gmvaluator.v1 import attribution_pb2 as v1
from tests.integration.hostile.conftest import GOOD, MODEL_VERSION, Target, served

INVALID, OK, FOREIGN = "INVALID_ARGUMENT", "OK", "FAILED_PRECONDITION"
RECALL = np.full(64, 0.125, np.float32)
PERCEPTUAL = np.full(192, 192**-0.5, np.float32)
NAN, INF = float("nan"), float("inf")


def with_one(vector: Any, value: float) -> Any:
    changed = vector.copy()
    changed[7] = value
    return changed


def embedding(**changes: Any) -> v1.Embedding:
    """A good one, but for `changes`."""
    fields = {
        "profile_hash": FAKE_IDENTITY.hash, "image_sha256": hashlib.sha256(b"x").digest(), "width": 8, "height": 8,
        "size_bytes": 100, "recall": RECALL, "perceptual": PERCEPTUAL, "quality": 0.5, **changes,
    }  # fmt: skip
    return v1.Embedding(**fields)


def request(sent: v1.Embedding, **changes: Any) -> bytes:
    fields = {"generation_id": f"e:{uuid.uuid4()}", "model_version": MODEL_VERSION, "embedding": sent, **changes}
    return v1.AttributeRequest(**fields).SerializeToString()


def length_delimited(number: int, body: bytes) -> bytes:
    """A field on the wire, its length below 128."""
    return bytes([number << 3 | 2, len(body)]) + body


EMBEDDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "as it should be": ({}, OK),
    "recall: empty": ({"recall": []}, INVALID),
    "recall: one short": ({"recall": RECALL[:-1]}, INVALID),
    "recall: one long": ({"recall": np.append(RECALL, 0)}, INVALID),
    "recall: 65,536 long": ({"recall": np.zeros(65_536)}, INVALID),
    "recall: 65,537 long": ({"recall": np.zeros(65_537)}, INVALID),
    "recall: a million long": ({"recall": np.zeros(1_000_000)}, INVALID),
    "recall: zeros": ({"recall": np.zeros(64)}, INVALID),
    "recall: doubled": ({"recall": RECALL * 2}, INVALID),
    "recall: all NaN": ({"recall": np.full(64, NAN)}, INVALID),
    "recall: all infinite": ({"recall": np.full(64, INF)}, INVALID),
    "recall: infinite both ways": ({"recall": np.where(np.arange(64) % 2, INF, -INF)}, INVALID),
    **{f"recall: with {value}": ({"recall": with_one(RECALL, value)}, INVALID) for value in (NAN, INF, -INF, 3e38)},
    "perceptual: empty": ({"perceptual": []}, INVALID),
    "perceptual: one short": ({"perceptual": PERCEPTUAL[:-1]}, INVALID),
    "perceptual: a view and a half": ({"perceptual": np.tile(PERCEPTUAL, 2)[:288]}, INVALID),
    "perceptual: 8 views": ({"perceptual": np.tile(PERCEPTUAL, 8)}, OK),
    "perceptual: 9 views": ({"perceptual": np.tile(PERCEPTUAL, 9)}, INVALID),
    "perceptual: a million numbers": ({"perceptual": np.zeros(1_000_000)}, INVALID),
    "perceptual: zeros": ({"perceptual": np.zeros(192)}, INVALID),
    "perceptual: the second view NaN": ({"perceptual": np.append(PERCEPTUAL, np.full(192, NAN))}, INVALID),
    **{
        f"perceptual: with {value}": ({"perceptual": with_one(PERCEPTUAL, value)}, INVALID)
        for value in (NAN, INF, -INF, 3e38)
    },
    **{
        f"quality: {value}": ({"quality": value}, INVALID)
        for value in (NAN, INF, -INF, -1e-9, 1 + 1e-9, 2.0, -1.0, 1e308)
    },
    **{f"quality: {value}": ({"quality": value}, OK) for value in (0.0, -0.0, 5e-324, 1.0)},
    "another profile": ({"profile_hash": "0" * 64}, FOREIGN),
    "no profile": ({"profile_hash": ""}, FOREIGN),
    "a profile of 1 MB": ({"profile_hash": "x" * 1_000_000}, FOREIGN),
    "a profile that turns round": ({"profile_hash": "\u202e" + FAKE_IDENTITY.hash}, FOREIGN),
    **{f"a hash of {count} bytes": ({"image_sha256": bytes(count)}, INVALID) for count in (0, 31, 33, 1_000_000)},
    **{
        f"of {width} x {height} pixels": ({"width": width, "height": height}, INVALID)
        for width, height in (
            (0, 8), (8, 0), (-1, 8), (-1, -1), (2**31 - 1, 2**31 - 1), (-(2**31), -(2**31)), (5_001, 5_000)
        )
    },
    **{f"of {count} bytes": ({"size_bytes": count}, INVALID) for count in (0, -1, 20 * 2**20 + 1, 2**63 - 1, -(2**63))},
}  # fmt: skip


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_are_refused_unless_every_number_may_be_believed(target: Target, name: str) -> None:
    changes, status = EMBEDDINGS[name]
    assert target.call("Attribute", request(embedding(**changes)))[0] == status


SHAPES: dict[str, tuple[bytes, str]] = {
    "an empty embedding": (request(v1.Embedding()), INVALID),
    "an image after it: the image counts": (request(embedding()) + length_delimited(3, b"no image"), INVALID),
    "an image before it: the embedding counts": (length_delimited(3, b"no image") + request(embedding()), OK),
    "an evil id": (request(embedding(), generation_id="a\0b"), INVALID),
    "an unknown generator": (request(embedding(), model_version="nobody's"), FOREIGN),
    "packed floats cut": (request(embedding()) + length_delimited(5, length_delimited(6, b"\0\0\0")), INVALID),
    "one more number, unpacked": (
        request(embedding()) + length_delimited(5, b"\x35" + struct.pack("<f", 1.0)), INVALID
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_messages_with_embeddings_of_any_shape_are_answered(target: Target, name: str) -> None:
    data, status = SHAPES[name]
    assert target.call("Attribute", data)[0] == status


def test_an_id_used_for_an_embedding_is_no_other_images(target: Target) -> None:
    name = f"e:{uuid.uuid4()}"
    assert target.call("Attribute", request(embedding(), generation_id=name))[0] == OK
    assert target.attribute(GOOD, name) == "ALREADY_EXISTS"
    other = embedding(image_sha256=hashlib.sha256(b"y").digest())
    assert target.call("Attribute", request(other, generation_id=name))[0] == "ALREADY_EXISTS"
    assert target.call("Attribute", request(embedding(), generation_id=name))[0] == OK


def test_on_a_stream_a_bad_embedding_fails_alone(target: Target) -> None:
    stub: Any = target.channel.stream_stream(
        "/gmvaluator.v1.AttributionService/AttributeStream",
        response_deserializer=v1.AttributeStreamResponse.FromString,
    )
    sent = [request(embedding()), request(embedding(recall=np.full(64, NAN))), request(embedding())]
    wrapped = [v1.AttributeStreamRequest(request=v1.AttributeRequest.FromString(data)) for data in sent]
    answers = list(stub(iter([message.SerializeToString() for message in wrapped]), timeout=60))
    assert [answer.failure.code for answer in answers if answer.HasField("failure")] == [
        grpc.StatusCode.INVALID_ARGUMENT.value[0]
    ]
    assert sum(answer.attribution.stage == v1.STAGE_FINAL for answer in answers) == 2


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, dict[str, str]]]:
    """An attributor with a token of every role, and one more."""
    data: Path = tmp_path_factory.mktemp("guarded")
    tokens = {role.name: new_token() for role in Role}
    for role in Role:
        identity = "farm" if role in (Role.GENERATOR, Role.EMBEDDER) else ""
        owner = str(uuid.UUID(int=1)) if role is Role.OWNER else ""
        token = Token(role.name, role, token_sha256(tokens[role.name]), now_utc(), identity, owner)
        add_token(data / "tokens.json", token)
    with served(data) as target:
        yield target, tokens | {"nobody": new_token(), "malformed": "x" * 4_000, "enormous": "x" * 20_000}


@pytest.mark.parametrize("role", [*(role.name for role in Role), "nobody", "malformed", "enormous", ""])
def test_only_an_embedder_may_send_embeddings(guarded: tuple[Target, dict[str, str]], role: str) -> None:
    target, tokens = guarded
    metadata = [("authorization", f"Bearer {tokens[role]}")] if role else None
    stub: Any = target.channel.unary_stream("/gmvaluator.v1.AttributionService/Attribute")
    # gRPC itself refuses metadata of more than 16 KB; between 8 and 16 KB it refuses some, by chance.
    by_name = {"EMBEDDER": OK, "enormous": "RESOURCE_EXHAUSTED"}
    expected = by_name.get(role, "PERMISSION_DENIED" if role in Role.__members__ else "UNAUTHENTICATED")
    try:
        list(stub(request(embedding()), timeout=60, metadata=metadata))
        status = OK
    except grpc.RpcError as error:
        code: Any = error
        status = code.code().name
    assert status == expected


def test_the_family_is_large() -> None:
    assert len(EMBEDDINGS) >= 20
