"""Between client and index, engine or server, over the wire: slow, cut, UNAVAILABLE, fewer hits, out of order.

Deadlines hold; what is safe is tried again, a few times; and no answer is taken for whole that is a part.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from qdrant_client import grpc as messages

from gmvaluator.errors import IndexFailed, IndexUnavailable, Overloaded
from gmvaluator.index import async_client, qdrant, resilient_client
from gmvaluator.index.location import Endpoint, ServerAccess
from gmvaluator.index.search import QdrantSearch
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Candidate, Neighbour
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_features, example_points, with_local_features
from tests.support.fault_proxy import Fault, FaultProxy, changing, cutting_proxy, failing, fault_proxy
from tests.support.index_places import EMBEDDED_AND_SERVER, IndexPlace, index_place, new_name

COLLECTION = new_name()
POINTS = example_points(400)
ONE = POINTS[7]
DEPTH, K = 60, 20
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
FOR_EVER = 1_000


@pytest.fixture(scope="module", params=EMBEDDED_AND_SERVER)
def place(request: pytest.FixtureRequest) -> Iterator[IndexPlace]:
    with index_place(request, COLLECTION) as made, closing(made.open_store()) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(POINTS)
        store.build()
        yield made


@pytest.fixture
def direct(place: IndexPlace) -> Iterator[QdrantStore]:
    with closing(place.open_store()) as store:
        yield store


@pytest.fixture
def proxy(direct: QdrantStore) -> Iterator[FaultProxy]:
    with fault_proxy(direct.endpoint) as running:
        yield running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilient_client, "FIRST_BACKOFF_S", 0.001)


@asynccontextmanager
async def searching(endpoint: Endpoint) -> AsyncIterator[QdrantSearch]:
    """A search that knows its collection, so that its next call is the query."""
    one = QdrantSearch(ServerAccess(endpoint), COLLECTION)
    await one.info()
    try:
        yield one
    finally:
        await one.close()


async def asked(one: QdrantSearch) -> tuple[list[Candidate], list[Neighbour]]:
    """Both stages of the service's query."""
    candidates = await one.recall(ONE.recall, DEPTH)
    return candidates, await one.rerank(ONE.perceptual, [found.training_image_id for found in candidates], K)


@pytest.fixture
async def plain(place: IndexPlace) -> tuple[list[Candidate], list[Neighbour]]:
    """Return the index's answers when nothing is in between."""
    one = place.open_search()
    try:
        return await asked(one)
    finally:
        await one.close()


def on_query(times: int, change: Any) -> Fault:
    """The first `times` answers to queries are changed, whether one came alone or several in a batch."""

    def change_each(answer: messages.QueryBatchResponse) -> None:
        for one in answer.result:
            change(one)

    kinds = {"Query": (messages.QueryResponse, change), "QueryBatch": (messages.QueryBatchResponse, change_each)}
    return changing(times, kinds)


def drop_hits(answer: Any) -> None:
    del answer.result[len(answer.result) // 2 :]


def shuffle_hits(answer: Any) -> None:
    hits = list(answer.result)
    random.Random(1).shuffle(hits)
    del answer.result[:]
    answer.result.extend(hits)


HALF_OF_THE_WORKS = {"Get": (messages.GetResponse, drop_hits)}


class Restarting(ServerAccess):
    """An engine that is dead at first, and comes back elsewhere once it is let go."""

    def __init__(self, dead: Endpoint, back: Endpoint) -> None:
        super().__init__(dead)
        self.back = back
        self.starting, self.started = threading.Event(), threading.Event()

    def renew(self, broken: Endpoint) -> Endpoint:
        self.starting.set()
        assert self.started.wait(30)
        return self.back


async def test_a_query_that_waited_for_the_engine_to_start_has_its_whole_time(
    direct: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_client, "CALL_TIMEOUT_S", 1.0)
    access = Restarting(replace(direct.endpoint, port=1), direct.endpoint)
    one = QdrantSearch(access, COLLECTION)
    first = asyncio.create_task(one.recall(ONE.recall, DEPTH))
    await asyncio.to_thread(access.starting.wait, 30)
    second = asyncio.create_task(one.recall(ONE.recall, DEPTH))
    await asyncio.sleep(1.1)
    access.started.set()
    try:
        assert await first == await second != []
    finally:
        await one.close()


async def test_a_slow_index_runs_into_the_deadline_and_is_not_asked_again(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_client, "CALL_TIMEOUT_S", 1.0)
    async with searching(proxy.endpoint) as one:

        def hang(_name: str, _context: grpc.ServicerContext, forward: Any) -> bytes:
            proxy.released.wait()  # until the end of the test: only the caller's deadline ends the call
            return bytes(forward())

        proxy.fault = hang
        with pytest.raises(IndexUnavailable, match="DEADLINE_EXCEEDED"):
            await one.recall(ONE.recall, DEPTH)
        assert proxy.calls["Query"] == 1


def test_a_slow_index_runs_into_the_writers_deadline_too(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmvaluator.index.store.CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(qdrant, "CALL_TIMEOUT_S", 1)
    with closing(QdrantStore(ServerAccess(proxy.endpoint), COLLECTION)) as store:
        store.metadata()
        proxy.fault = lambda _name, _context, forward: forward() if proxy.released.wait() else b""
        with pytest.raises(IndexUnavailable, match="DEADLINE_EXCEEDED"):
            store.upsert([ONE])
        with pytest.raises(IndexUnavailable, match="DEADLINE_EXCEEDED"):
            store.info()
        assert (proxy.calls["Upsert"], proxy.calls["Get"]) == (1, 2)


async def test_an_index_that_is_away_for_a_moment_is_asked_again(proxy: FaultProxy, plain: object) -> None:
    async with searching(proxy.endpoint) as one:
        proxy.fault = failing(resilient_client.MAX_ATTEMPTS - 1, UNAVAILABLE, "Query")
        assert await asked(one) == plain


async def test_an_index_that_stays_away_is_asked_a_few_times_only(proxy: FaultProxy) -> None:
    async with searching(proxy.endpoint) as one:
        proxy.fault = failing(FOR_EVER, UNAVAILABLE, "Query")
        with pytest.raises(IndexUnavailable, match="UNAVAILABLE"):
            await one.recall(ONE.recall, DEPTH)
        assert proxy.calls["Query"] == resilient_client.MAX_ATTEMPTS


async def test_pauses_end_with_the_deadline(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilient_client, "FIRST_BACKOFF_S", 1_000.0)
    async with searching(proxy.endpoint) as one:
        proxy.fault = failing(FOR_EVER, UNAVAILABLE, "Query")
        with pytest.raises(IndexUnavailable, match="UNAVAILABLE"):
            await one.recall(ONE.recall, DEPTH)
        assert proxy.calls["Query"] == 1


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INTERNAL, IndexFailed),
        (grpc.StatusCode.DEADLINE_EXCEEDED, IndexUnavailable),
    ],
)
async def test_what_would_only_make_it_worse_is_not_tried_again(
    proxy: FaultProxy, code: grpc.StatusCode, raised: type[Exception]
) -> None:
    async with searching(proxy.endpoint) as one:
        proxy.fault = failing(FOR_EVER, code, "Query")
        with pytest.raises(raised):
            await one.recall(ONE.recall, DEPTH)
        assert proxy.calls["Query"] == 1


def test_a_write_that_was_made_but_not_acknowledged_is_repeated_and_makes_no_second_point(
    proxy: FaultProxy, direct: QdrantStore
) -> None:
    before = direct.info().points
    fresh = example_points(1, seed=99)
    with closing(QdrantStore(ServerAccess(proxy.endpoint), COLLECTION)) as store:
        store.metadata()
        proxy.fault = failing(1, UNAVAILABLE, "Upsert", after=True)
        store.upsert(fresh)
    assert proxy.calls["Upsert"] == 2
    assert direct.info().points == before + 1
    assert [one.training_image_id for one in direct.fetch([fresh[0].training_image_id])] == [fresh[0].training_image_id]


def test_a_writer_gives_up_on_an_index_that_stays_away(proxy: FaultProxy) -> None:
    with closing(QdrantStore(ServerAccess(proxy.endpoint), COLLECTION)) as store:
        store.metadata()
        proxy.fault = failing(FOR_EVER, UNAVAILABLE, "Upsert")
        with pytest.raises(IndexUnavailable, match="UNAVAILABLE"):
            store.upsert([ONE])
        assert proxy.calls["Upsert"] == resilient_client.MAX_ATTEMPTS


@pytest.mark.parametrize("after_bytes", [0, 600, 3_000])
async def test_a_connection_that_is_cut_is_made_again(
    direct: QdrantStore, plain: object, after_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resilient_client, "FIRST_BACKOFF_S", 0.4)  # as gRPC itself waits before it connects again
    with cutting_proxy(direct.endpoint, 2, after_bytes) as cutting:
        async with searching(cutting.endpoint) as one:
            assert await asked(one) == plain
        assert cutting.cut == 2


async def test_half_of_the_hits_are_noticed_and_asked_for_again(proxy: FaultProxy, plain: Sequence[object]) -> None:
    async with searching(proxy.endpoint) as one:
        proxy.fault = on_query(1, drop_hits)
        candidates = await one.recall(ONE.recall, DEPTH)
        assert len(candidates) == DEPTH
        ids = [found.training_image_id for found in candidates]
        proxy.fault = on_query(1, drop_hits)
        neighbours = await one.rerank(ONE.perceptual, ids, K)
        assert neighbours == plain[1]


async def test_half_of_the_hits_again_and_again_are_no_answer(proxy: FaultProxy) -> None:
    async with searching(proxy.endpoint) as one:
        candidates = await one.recall(ONE.recall, DEPTH)
        proxy.fault = on_query(FOR_EVER, drop_hits)
        with pytest.raises(IndexFailed, match=f"answered {DEPTH // 2} of {DEPTH} works"):
            await one.recall(ONE.recall, DEPTH)
        with pytest.raises(IndexFailed, match="a part of it is missing"):
            await one.rerank(ONE.perceptual, [found.training_image_id for found in candidates], DEPTH)


async def test_half_of_the_hits_of_windows_are_noticed_and_asked_for_again(proxy: FaultProxy) -> None:
    windows = np.stack([point.recall for point in POINTS[:3]])
    async with searching(proxy.endpoint) as one:
        whole = await one.recall_with_windows(ONE.recall, DEPTH, windows, K)
        proxy.fault = on_query(1, drop_hits)
        assert await one.recall_with_windows(ONE.recall, DEPTH, windows, K) == whole
        proxy.fault = on_query(FOR_EVER, drop_hits)
        with pytest.raises(IndexFailed, match="a part of it is missing"):
            await one.recall_with_windows(ONE.recall, DEPTH, windows, K)


async def test_half_of_the_local_features_are_noticed_and_asked_for_again(
    proxy: FaultProxy, direct: QdrantStore
) -> None:
    points = [with_local_features(point, example_features(5)) for point in example_points(30, seed=41)]
    direct.upsert(points)
    works = [point.training_image_id for point in points]
    async with searching(proxy.endpoint) as one:
        for ids, fault in (
            (works[:10], changing(1, HALF_OF_THE_WORKS)),
            (works[10:20], failing(1, UNAVAILABLE, "Get")),
        ):
            proxy.fault = fault
            assert (await one.local_features(ids)).keys() == set(ids)
        gets = proxy.calls["Get"]
        assert (await one.local_features(works[:20])).keys() == set(works[:20])
        assert proxy.calls["Get"] == gets
        ids, proxy.fault = works[20:], changing(FOR_EVER, HALF_OF_THE_WORKS)
        with pytest.raises(IndexFailed, match="answered 5 of 10 works"):
            await one.local_features(ids)


async def test_no_hits_at_all_are_no_answer_either(proxy: FaultProxy) -> None:
    async with searching(proxy.endpoint) as one:
        proxy.fault = on_query(FOR_EVER, lambda answer: answer.ClearField("result"))
        with pytest.raises(IndexFailed, match=f"answered 0 of {DEPTH} works"):
            await one.recall(ONE.recall, DEPTH)


async def test_the_same_hit_twice_counts_once(proxy: FaultProxy) -> None:
    def repeat_the_first(answer: Any) -> None:
        answer.result[-1].CopyFrom(answer.result[0])

    async with searching(proxy.endpoint) as one:
        candidates = await one.recall(ONE.recall, DEPTH)
        proxy.fault = on_query(FOR_EVER, repeat_the_first)
        with pytest.raises(IndexFailed, match="answered"):
            await one.recall(ONE.recall, DEPTH)
        with pytest.raises(IndexFailed, match="answered"):
            await one.rerank(ONE.perceptual, [found.training_image_id for found in candidates], DEPTH)


async def test_half_of_those_as_near_as_the_last_are_noticed_too(proxy: FaultProxy, direct: QdrantStore) -> None:
    alike = [replace(point, perceptual=ONE.perceptual) for point in example_points(40, seed=40)]
    direct.upsert(alike)
    ids = [point.training_image_id for point in alike]
    async with searching(proxy.endpoint) as one:
        whole = await one.rerank(ONE.perceptual[:1], ids, 5)
        asked_before, drop = proxy.calls["Query"], on_query(FOR_EVER, drop_hits)

        def drop_from_the_second(name: str, context: grpc.ServicerContext, forward: Any) -> bytes:
            first = proxy.calls["Query"] == asked_before + 1
            return bytes(forward()) if first else drop(name, context, forward)

        assert [found.training_image_id for found in whole] == sorted(ids)[:5]
        proxy.fault = drop_from_the_second
        with pytest.raises(IndexFailed, match="answered 20 of 40 works"):
            await one.rerank(ONE.perceptual[:1], ids, 5)


async def test_hits_out_of_order_are_put_in_order(proxy: FaultProxy, plain: object) -> None:
    async with searching(proxy.endpoint) as one:
        proxy.fault = on_query(FOR_EVER, shuffle_hits)
        assert await asked(one) == plain


async def test_the_answer_to_another_question_is_refused(proxy: FaultProxy) -> None:
    async with searching(proxy.endpoint) as one:
        candidates = await one.recall(ONE.recall, DEPTH)
        kept: list[Any] = []

        def swap(answer: Any) -> None:
            kept.append(messages.QueryResponse.FromString(answer.SerializeToString()))
            answer.CopyFrom(kept[0])

        ids = [found.training_image_id for found in candidates]
        proxy.fault = on_query(FOR_EVER, swap)
        await one.rerank(ONE.perceptual[:1], ids[:30], K)
        with pytest.raises(IndexFailed, match="others, such as"):
            await one.rerank(ONE.perceptual[:1], ids[30:], K)


async def test_a_data_set_smaller_than_the_depth_is_no_part(proxy: FaultProxy, direct: QdrantStore) -> None:
    few = example_points(5, seed=5)
    direct.upsert(few)
    direct.join_data_set([one.training_image_id for one in few], "few")
    async with searching(proxy.endpoint) as one:
        found = await one.recall(ONE.recall, DEPTH, ["few"])
        assert {candidate.training_image_id for candidate in found} == {point.training_image_id for point in few}
        assert proxy.calls["Query"] == 1


def test_no_two_callers_wait_alike() -> None:
    assert len({resilient_client.backoff_s(1) for _ in range(20)}) > 10
    assert all(
        resilient_client.FIRST_BACKOFF_S <= resilient_client.backoff_s(2) <= 3 * resilient_client.FIRST_BACKOFF_S
        for _ in range(20)
    )


async def test_the_local_features_used_longest_ago_are_fetched_again(
    proxy: FaultProxy, direct: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmvaluator.index.search._CACHED_FEATURES", 2)
    points = [with_local_features(point, example_features(5, seed)) for seed, point in enumerate(POINTS[:3])]
    direct.upsert(points)
    first, second, third = (point.training_image_id for point in points)
    async with searching(proxy.endpoint) as one:
        gets = []
        for ids in ([first, second], [first], [third], [first], [second]):
            before = proxy.calls["Get"]
            assert (await one.local_features(ids)).keys() == set(ids)
            gets.append(proxy.calls["Get"] - before)
        assert gets == [1, 0, 1, 0, 1]
