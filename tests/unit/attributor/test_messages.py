"""Messages of the wire contract: what an attribution says, and what an embedding has to."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from attributor.core.attribution import Attribution, Contributor, Payee, Stage, VisibleParts
from attributor.rpc.messages import attribution_message, image_request
from gmvaluator.errors import InvalidVector
from gmvaluator.ids import training_image_id
from gmvaluator.keypoints import MAX_IMAGE_KEYPOINTS
from gmvaluator.testing.index import example_features
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.valuation.parts import WHOLE

WORK, FIRST = training_image_id("1" * 64), training_image_id("2" * 64)


def contributor(**changes: Any) -> Contributor:
    plain = Contributor(WORK, 0.5, 0.25, "key", "title", 0.1, 250_000, (Payee("suspense", "", 1_000_000, 250_000),))
    return plain._replace(**changes)


def sent(row: Contributor) -> attribution_v1.Contributor:
    attribution = Attribution("g", "m", Stage.FINAL, (row,), 0.75, "paper@1", sequence=1, head_hash=bytes(32))
    return attribution_message(attribution).contributors[0]


def test_a_contributor_says_all_that_is_known_of_it() -> None:
    message = sent(
        contributor(
            duplicate_group=FIRST,
            competing=True,
            share_low=0.0,
            share_high=0.5,
            visible=VisibleParts(12, 1 << 17, WHOLE, 0.25),
        )
    )
    assert (message.training_image_id, message.key, message.title) == (str(WORK), "key", "title")
    assert message.duplicate_group == str(FIRST)
    assert message.competing
    assert message.HasField("share_low")
    assert (message.share_low, message.share_high) == (0.0, 0.5)
    assert message.visible.inliers == 12
    assert message.visible.image_share == 0.25
    assert message.visible.image_cells == bytes([0, 0, 2]) + bytes(29)
    assert message.visible.work_cells == bytes([255] * 32)


def test_what_does_not_apply_is_absent() -> None:
    message = sent(contributor())
    assert not message.duplicate_group
    assert not message.competing
    assert not message.HasField("share_low")
    assert not message.HasField("visible")


def embedding(**changes: object) -> attribution_v1.AttributeRequest:
    features = example_features(7)
    fields: dict[str, object] = {
        "image_sha256": bytes(32),
        "width": 20,
        "height": 30,
        "size_bytes": 99,
        "quality": 0.5,
        "windows": [0.25] * 8,
        "local_features": features.to_bytes(),
        "mirrored_descriptors": bytes(features.descriptors.size),
        **changes,
    }
    message = attribution_v1.Embedding(**fields)  # type: ignore[arg-type]
    return attribution_v1.AttributeRequest(generation_id="g", model_version="m", embedding=message)


def test_an_embedding_has_its_windows_and_local_features() -> None:
    embedded = image_request(embedding(), "local").embedded
    assert embedded is not None
    assert embedded.local is not None
    np.testing.assert_array_equal(embedded.windows, [0.25] * 8)
    np.testing.assert_array_equal(embedded.local.descriptors, example_features(7).descriptors)
    assert embedded.local.mirrored.shape == (7, 32)


@pytest.mark.parametrize(("keypoints", "accepted"), [(MAX_IMAGE_KEYPOINTS, True), (MAX_IMAGE_KEYPOINTS + 1, False)])
def test_an_image_may_have_more_keypoints_than_a_work(keypoints: int, accepted: bool) -> None:
    data = example_features(keypoints, most=keypoints).to_bytes()
    request = embedding(local_features=data, mirrored_descriptors=bytes(32 * keypoints))
    with nullcontext() if accepted else pytest.raises(InvalidVector, match=f"up to {MAX_IMAGE_KEYPOINTS} keypoints"):
        assert image_request(request, "local").embedded is not None


def test_an_embedding_of_a_profile_without_parts_has_neither() -> None:
    embedded = image_request(embedding(windows=[], local_features=b"", mirrored_descriptors=b""), "local").embedded
    assert embedded is not None
    assert embedded.local is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mirrored_descriptors": b"abc"}, "give 32 for each of its 7 keypoints"),
        ({"local_features": b"abc"}, "local features of 3 bytes"),
        ({"local_features": bytes(36 + 38 * 7)}, "checksum"),
    ],
)
def test_damaged_local_features_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidVector, match=message):
        image_request(embedding(**changes), "local")
