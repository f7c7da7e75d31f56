"""kill -9 of the attributor, again and again: every image is posted once, and the sums are right."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Unavailable
from gmvaluator.v1.royalty_pb2 import WatchRoyaltiesResponse
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.programs import Attributor, gmvaluator

KILLS = 8
LONGEST_LIFE_S = 1.5


@contextmanager
def killed_after(attributor: Attributor, life_s: float) -> Iterator[None]:
    timer = threading.Timer(life_s, attributor.kill)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def send_until_cut(client: AttributorClient, waiting: list[tuple[str, bytes]], answered: dict[str, int]) -> None:
    """Send in order, and take what was answered off the list; a cut leaves the rest to be sent again."""
    while waiting:
        generation, image = waiting[0]
        try:
            *_, final = client.attribute(image, generation, MODEL_VERSION)
        except Unavailable:
            return
        answered[generation] = final.issued_micros
        waiting.pop(0)


@pytest.mark.timeout(600)
def test_kills_lose_and_double_nothing(data: Path, images: list[bytes]) -> None:
    chance = random.Random(20)
    count = KILLS * 100
    sent = [(f"kill:{number}", images[number % len(images)]) for number in range(count)]
    waiting, answered = list(sent), dict[str, int]()
    for _ in range(KILLS):
        life_s = chance.uniform(0.05, LONGEST_LIFE_S)
        with Attributor(data) as attributor, killed_after(attributor, life_s):
            with AttributorClient(attributor.address) as client:
                send_until_cut(client, waiting, answered)
        assert waiting, "the run outpaced its kills: send more images"
        # What was answered last is sent again too, as a caller does who lost the answer.
        waiting[:0] = [pair for pair in sent if pair[0] in list(answered)[-3:] and pair not in waiting]
    with Attributor(data) as attributor, AttributorClient(attributor.address) as client:
        send_until_cut(client, waiting[:50], answered)
        postings = list(_postings(client, len(answered)))
    totals = gmvaluator("ledger", "totals", "--data", data)
    assert sorted(posting.generation_id for posting in postings) == sorted(answered)
    assert totals["postings"] == len(answered)
    assert totals["issued_micros"] == sum(answered.values()) == totals["owners_micros"]
    assert totals["reconciles"]
    assert gmvaluator("ledger", "verify", "--data", data)["ok"]


def _postings(client: AttributorClient, count: int) -> Iterator[WatchRoyaltiesResponse]:
    for number, posting in enumerate(client.watch_royalties(), start=1):
        yield posting
        if number == count:
            return
