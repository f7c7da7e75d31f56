"""Vectors cross the wire as bytes: the same as number by number, whatever else a message holds."""

import math

import numpy as np
import pytest
from qdrant_client import grpc as messages
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from gmvaluator.index.engine.supported_api import Refused
from gmvaluator.index.engine.wire_points import finite_dense
from gmvaluator.index.schema import PERCEPTUAL, RECALL
from gmvaluator.index.vectors import dense_wire, point_message
from gmvaluator.testing.index import example_points


def test_a_point_is_what_the_client_itself_would_send() -> None:
    for point in example_points(3):
        vectors = {RECALL: point.recall.tolist(), PERCEPTUAL: point.perceptual.tolist()}
        struct = models.PointStruct(id=str(point.training_image_id), vector=vectors, payload=dict(point.payload))
        assert point_message(point, point.recall, point.perceptual) == RestToGrpc.convert_point_struct(struct)


@pytest.mark.parametrize("dimension", [1, 31, 32, 512, 4_095, 4_096, 40_000])
def test_a_vector_survives_both_ways(dimension: int) -> None:
    sent = np.random.default_rng(dimension).normal(size=dimension).astype(np.float32)
    message = messages.DenseVector.FromString(dense_wire(sent))
    assert list(message.data) == sent.tolist()
    assert finite_dense(message, dimension, "recall") == sent.tolist()


def test_a_field_that_we_do_not_know_changes_no_number() -> None:
    unknown_field_15 = b"\x7a\x04abcd"
    message = messages.DenseVector.FromString(dense_wire(np.arange(3, dtype=np.float32)) + unknown_field_15)
    assert finite_dense(message, 3, "recall") == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(Refused, match="not finite"):
        finite_dense(messages.DenseVector(data=[0.0, number]), 2, "recall")


def test_another_dimension_is_refused() -> None:
    with pytest.raises(Refused, match="has 0 dimensions, the collection has 2"):
        finite_dense(messages.DenseVector(), 2, "recall")
