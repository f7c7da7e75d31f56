"""A batch that does not fit is tried in halves, once."""

from collections.abc import Sequence

import numpy as np
import pytest
import structlog
import torch

from gmvaluator.errors import ModelFailed
from gmvaluator.models.device import retry_in_halves
from gmvaluator.ports import Float32Array


class Small:
    """A model that has room for `room` rows."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[int] = []

    def __call__(self, rows: Sequence[int]) -> Float32Array:
        self.batches.append(len(rows))
        if len(rows) > self.room:
            raise torch.OutOfMemoryError("no room")
        return np.array(rows, np.float32)


def test_a_batch_is_halved_once_and_that_is_said() -> None:
    model = Small(3)
    with structlog.testing.capture_logs() as logs:
        rows = retry_in_halves(model, [1, 2, 3, 4, 5], "recall")
    assert rows.tolist() == [1, 2, 3, 4, 5]
    assert model.batches == [5, 3, 2]
    (entry,) = logs
    assert entry["event"] == "out_of_memory"
    assert (entry["model"], entry["images"], entry["tried_next"]) == ("recall", 5, 3)


def test_a_half_that_does_not_fit_either_fails_the_batch() -> None:
    model = Small(1)
    with pytest.raises(ModelFailed, match="lower --max-batch"):
        retry_in_halves(model, [1, 2, 3, 4], "recall")
    assert model.batches == [4, 2]


def test_one_image_cannot_be_halved() -> None:
    with pytest.raises(ModelFailed, match="ran out of memory over one image"):
        retry_in_halves(Small(0), [1], "recall")


def test_what_fits_is_computed_as_it_is() -> None:
    model = Small(8)
    retry_in_halves(model, [1, 2], "recall")
    assert model.batches == [2]
