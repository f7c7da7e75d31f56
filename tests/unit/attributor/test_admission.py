"""Admission: bounds on calls and pixels, fair shares, refusals and queues."""

import asyncio
from contextlib import ExitStack

import pytest

from attributor.rpc.admission import CALL_PIXELS, Admission
from gmvaluator.errors import Overloaded
from tests.support.waiting import let_tasks_run


class Clock:
    """Monotonic seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def hold(admission: Admission, stack: ExitStack, client: str, count: int, pixels: int = 0) -> int:
    """Admit calls until one is refused, `count` at most; return how many were admitted."""
    for number in range(count):
        try:
            stack.enter_context(admission.admit(client, pixels))
        except Overloaded:
            return number
    return count


def test_calls_are_bounded_and_capacity_is_returned() -> None:
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


def test_an_image_larger_than_the_bound_is_admitted_alone() -> None:
    admission = Admission(10, CALL_PIXELS)
    with admission.admit("a", 50 * CALL_PIXELS):
        with pytest.raises(Overloaded), admission.admit("b", 1):
            raise AssertionError("admitted")


def test_one_client_may_use_all_capacity_until_another_competes() -> None:
    clock = Clock()
    admission = Admission(8, 10**9, clock)
    with ExitStack() as first, ExitStack() as second:
        assert hold(admission, first, "a", 10) == 8
        assert hold(admission, second, "b", 1) == 0
        first.pop_all().close()
        assert hold(admission, first, "a", 10) == 4
        assert hold(admission, second, "b", 10) == 4
    clock.now_s = 10
    with ExitStack() as first:
        assert hold(admission, first, "a", 10) == 8


def test_the_retry_delay_follows_the_duration_of_calls() -> None:
    clock = Clock()
    admission = Admission(1, 10**9, clock)
    with admission.admit("a", 0):
        clock.now_s += 2.0
    with admission.admit("a", 0), pytest.raises(Overloaded) as refused, admission.admit("a", 0):
        raise AssertionError("admitted")
    assert refused.value.retry_after_ms == 1000


async def test_waiting_clients_are_served_round_robin() -> None:
    admission = Admission(1, 10**9)
    order: list[str] = []

    async def call(client: str) -> None:
        async with admission.wait(client, 0):
            order.append(client)
            await asyncio.sleep(0)

    with admission.admit("first", 0):
        calls = [asyncio.create_task(call(client)) for client in ("a", "a", "a", "b")]
        await let_tasks_run()
        assert order == []
    await asyncio.gather(*calls)
    assert order == ["a", "b", "a", "a"]
    assert admission.calls == 0


async def test_a_call_cancelled_while_waiting_takes_no_capacity() -> None:
    admission = Admission(1, 10**9)

    async def call() -> None:
        async with admission.wait("a", 0):
            await asyncio.sleep(0)

    with admission.admit("first", 0):
        calls = [asyncio.create_task(call()) for _ in range(4)]
        await let_tasks_run()
        calls[0].cancel()
        calls[2].cancel()
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (admission.calls, admission.pixels) == (0, 0)
    with admission.admit("a", 0):
        assert admission.calls == 1
