"""Places of calls that wait: a newcomer gets one at the cost of whoever holds the most."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from attributor.rpc.places import ConnectionCalls, SharedPlaces, address_of
from gmvaluator.errors import Overloaded
from tests.support.waiting import let_tasks_run

Holding = dict[str, asyncio.Task[None]]


async def held(places: SharedPlaces, holding: Holding, owner: str, connection: str) -> None:
    async def hold() -> None:
        async with places.place(owner, connection):
            await asyncio.Event().wait()

    holding[f"{owner} {connection} {len(holding)}"] = asyncio.ensure_future(hold())
    await let_tasks_run(3)


async def ended(holding: Holding) -> list[str]:
    await let_tasks_run()
    return [name for name, task in holding.items() if task.done()]


async def release(holding: Holding) -> None:
    for task in holding.values():
        task.cancel()
    await asyncio.gather(*holding.values(), return_exceptions=True)


@pytest.mark.parametrize(
    ("holders", "newcomer", "gives_way"),
    [
        ([("a", "a:1"), ("b", "b:1"), ("b", "b:2")], ("c", "c:1"), "b b:1 1"),  # the oldest of the largest owner
        ([("a", "a:1"), ("a", "a:2"), ("a", "a:2")], ("a", "a:3"), "a a:2 1"),  # of its largest connection
        ([("a", "a:1"), ("b", "b:1"), ("c", "c:1")], ("d", "d:1"), "a a:1 0"),  # among equals the oldest
        ([("a", "a:1"), ("a", "a:1"), ("b", "b:1")], ("a", "a:1"), "a a:1 0"),  # the largest displaces itself
    ],
)
async def test_a_newcomer_takes_a_place_of_the_largest_holder(
    holders: list[tuple[str, str]], newcomer: tuple[str, str], gives_way: str
) -> None:
    places, holding = SharedPlaces(3, "full"), Holding()
    for holder in holders:
        await held(places, holding, *holder)
    await held(places, holding, *newcomer)
    assert await ended(holding) == [gives_way]
    assert places.held == 3
    with pytest.raises(Overloaded, match="full"):
        await holding[gives_way]
    await release(holding)
    assert places.held == 0


async def test_a_cancelled_call_is_not_told_that_it_was_displaced() -> None:
    places, holding = SharedPlaces(1, "full"), Holding()
    await held(places, holding, "a", "a:1")
    await release(holding)
    assert [task.cancelled() for task in holding.values()] == [True]
    assert places.held == 0


class Call:
    """The context of a call, which ends when `end` is called."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self.end: Callable[[object], None]

    def peer(self) -> str:
        return self._connection

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.end = callback


def test_calls_of_a_connection_count_until_they_have_ended() -> None:
    calls = ConnectionCalls(2)
    first, second = Call("a:1"), Call("a:1")
    for call in (first, second, Call("b:1")):
        calls.count(cast(Any, call))
    with pytest.raises(Overloaded, match="2 calls"):
        calls.count(cast(Any, Call("a:1")))
    first.end(None)
    calls.count(cast(Any, Call("a:1")))


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:192.0.2.1:40000", "ipv4:192.0.2.1"), ("ipv6:%5B::1%5D:40000", "ipv6:%5B::1%5D"), ("unix", "unix")],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert address_of(peer) == address
