"""The checksum of a work's vectors, and what is written with it."""

from dataclasses import replace

import numpy as np
import pytest

from gmvaluator.index.engine.checksums import CHECKSUM, damage, vectors_checksum
from gmvaluator.index.vectors import dense_row, dense_rows, point_message, with_checksum
from gmvaluator.ports import Float32Array, Point
from gmvaluator.testing.index import example_points


def vectors_of(point: Point) -> dict[str, Float32Array]:
    return {"recall": point.recall, "perceptual": point.perceptual}


def test_a_checksum_is_of_all_vectors_in_their_order() -> None:
    point = with_checksum(example_points(1)[0])
    vectors = vectors_of(point)
    assert vectors_checksum(vectors) == vectors_checksum(dict(reversed(vectors.items()))) == point.payload[CHECKSUM]
    assert damage(vectors, point.payload[CHECKSUM]) == ""
    swapped = {**vectors, "perceptual": point.perceptual[::-1]}
    assert "checksum" in damage(swapped, point.payload[CHECKSUM])
    assert damage(swapped, None) == ""
    assert "recall" in damage({**vectors, "recall": 0 * point.recall}, None)
    assert "perceptual" in damage({**vectors, "perceptual": np.full_like(point.perceptual, np.nan)}, None)


@pytest.mark.parametrize("length", [0.9995, 1.0, 1.0004])
def test_vectors_are_written_as_an_index_stores_them(length: float) -> None:
    """An index scales vectors that are not exactly of unit norm, and the checksum is of what it stores."""
    point = example_points(1)[0]
    scaled = replace(
        point, recall=(point.recall * np.float32(length)), perceptual=point.perceptual * np.float32(length)
    )
    written = with_checksum(scaled)
    assert abs(np.linalg.norm(written.recall.astype(np.float64)) - 1) < 1e-7
    assert written.payload[CHECKSUM] == vectors_checksum(vectors_of(written))
    assert with_checksum(written).payload == written.payload


def test_vectors_of_no_norm_are_left_to_the_writer_to_refuse() -> None:
    point = example_points(1)[0]
    assert not with_checksum(replace(point, recall=0 * point.recall)).recall.any()


def test_vectors_are_read_from_messages_as_they_were_put_in() -> None:
    point = example_points(1)[0]
    vectors = point_message(point, point.recall, point.perceptual).vectors.vectors.vectors
    assert (dense_row(vectors["recall"]) == point.recall).all()
    assert (dense_rows(vectors["perceptual"]) == point.perceptual).all()
    assert not dense_rows(vectors["recall"]).size
