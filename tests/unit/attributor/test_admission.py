"""Who is let in: bounded by calls and by pixels, shared between clients, refused at once or made to wait."""

import asyncio
from contextlib import ExitStack

import pytest

from attributor.rpc.admission import CALL_PIXELS, Admission
from gmvaluator.errors import Overloaded


class Clock:
    """Monotonic seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def hold(admission: Admission, stack: ExitStack, client: str, count: int, pixels: int = 0) -> int:
    """Take places until one is refused, `count` at most; how many were taken."""
    for number in range(count):
        try:
            stack.enter_context(admission.admit(client, pixels))
        except Overloaded:
            return number
    return count


def test_calls_are_bounded_and_places_come_back() -> None:
    admission = Admission(3, 10**9)
    with ExitStack() as stack:
        assert hold(admission, stack, "a", 10) == 3
    assert (admission.calls, admission.pixels) == (0, 0)
    assert (admission.counts.admitted, admission.counts.refused) == (3, 1)


def test_large_images_cost_more() -> None:
    admission = Admission(100, 10 * CALL_PIXELS)
    with ExitStack() as stack:
        assert hold(admission, stack, "a", 100) == 10
    with ExitStack() as stack:
        assert hold(admission, stack, "a", 100, pixels=4 * CALL_PIXELS) == 2


def test_an_image_larger_than_the_bound_is_let_in_alone() -> None:
    admission = Admission(10, CALL_PIXELS)
    with admission.admit("a", 50 * CALL_PIXELS):
        with pytest.raises(Overloaded), admission.admit("b", 1):
            raise AssertionError("admitted")


def test_one_client_may_hold_everything_until_another_asks() -> None:
    clock = Clock()
    admission = Admission(8, 10**9, clock)
    with ExitStack() as mine, ExitStack() as theirs:
        assert hold(admission, mine, "a", 10) == 8
        assert hold(admission, theirs, "b", 1) == 0
        mine.pop_all().close()
        assert hold(admission, mine, "a", 10) == 4
        assert hold(admission, theirs, "b", 10) == 4
    clock.now_s = 10
    with ExitStack() as mine:
        assert hold(admission, mine, "a", 10) == 8


def test_the_pause_follows_how_long_calls_take() -> None:
    clock = Clock()
    admission = Admission(1, 10**9, clock)
    with admission.admit("a", 0):
        clock.now_s += 2.0
    with admission.admit("a", 0), pytest.raises(Overloaded) as refused, admission.admit("a", 0):
        raise AssertionError("admitted")
    assert refused.value.retry_after_ms == 1000


async def test_streams_wait_and_their_clients_take_turns() -> None:
    admission = Admission(1, 10**9)
    order: list[str] = []

    async def ask(client: str) -> None:
        async with admission.wait(client, 0):
            order.append(client)
            await asyncio.sleep(0)

    with admission.admit("first", 0):
        asks = [asyncio.create_task(ask(client)) for client in ("a", "a", "a", "b")]
        await asyncio.sleep(0.01)
        assert order == []
    await asyncio.gather(*asks)
    assert order == ["a", "b", "a", "a"]
    assert admission.calls == 0


async def test_who_leaves_while_waiting_takes_no_place() -> None:
    admission = Admission(1, 10**9)

    async def ask() -> None:
        async with admission.wait("a", 0):
            await asyncio.sleep(0)

    with admission.admit("first", 0):
        asks = [asyncio.create_task(ask()) for _ in range(4)]
        await asyncio.sleep(0.01)
        asks[0].cancel()
        asks[2].cancel()
    asks[1].cancel()
    await asyncio.gather(*asks, return_exceptions=True)
    assert (admission.calls, admission.pixels) == (0, 0)
    with admission.admit("a", 0):
        assert admission.calls == 1
