"""Turns on the event loop: one in a few rounds, in order, and none is lost with a caller that leaves."""

import asyncio

from attributor.core.loop_fairness import ROUNDS, LoopScheduler


async def rounds_of(work: asyncio.Task[None]) -> int:
    """How many rounds the event loop makes until `work` is done."""
    rounds = 0
    while not work.done():
        await asyncio.sleep(0)
        rounds += 1
    return rounds


async def test_many_who_become_ready_at_once_take_a_few_rounds_each_in_order() -> None:
    turns, done = LoopScheduler(), list[int]()

    async def one(number: int) -> None:
        await turns.take()
        done.append(number)

    async def everyone() -> None:
        await asyncio.gather(*map(one, range(20)))

    rounds = await rounds_of(asyncio.create_task(everyone()))
    assert done == list(range(20))
    assert rounds >= 19 * ROUNDS


async def test_a_turn_is_free_when_nobody_takes_one() -> None:
    turns = LoopScheduler()
    for _ in range(3):
        await asyncio.wait_for(turns.take(), 10)
        for _ in range(2 * ROUNDS):
            await asyncio.sleep(0)


async def test_who_leaves_keeps_nobody_waiting() -> None:
    turns, done = LoopScheduler(), list[int]()

    async def one(number: int) -> None:
        await turns.take()
        done.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert done == [0, 2, 4]
    await asyncio.wait_for(turns.take(), 10)
