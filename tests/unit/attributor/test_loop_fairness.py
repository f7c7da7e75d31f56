"""The loop scheduler: one turn in a few rounds of the event loop, in order, and none lost with a cancelled caller."""

import asyncio

from attributor.core.loop_fairness import ROUNDS, LoopScheduler


async def rounds_of(work: asyncio.Task[None]) -> int:
    """Count the rounds of the event loop until `work` is done."""
    rounds = 0
    while not work.done():
        await asyncio.sleep(0)
        rounds += 1
    return rounds


async def test_callers_that_are_ready_at_once_take_a_few_rounds_each_in_order() -> None:
    scheduler, done = LoopScheduler(), list[int]()

    async def caller(number: int) -> None:
        await scheduler.yield_turn()
        done.append(number)

    async def all_callers() -> None:
        await asyncio.gather(*map(caller, range(20)))

    rounds = await rounds_of(asyncio.create_task(all_callers()))
    assert done == list(range(20))
    assert rounds >= 19 * ROUNDS


async def test_a_turn_is_free_when_no_other_caller_takes_one() -> None:
    scheduler = LoopScheduler()
    for _ in range(3):
        await asyncio.wait_for(scheduler.yield_turn(), 10)
        for _ in range(2 * ROUNDS):
            await asyncio.sleep(0)


async def test_a_cancelled_caller_delays_no_other() -> None:
    scheduler, done = LoopScheduler(), list[int]()

    async def caller(number: int) -> None:
        await scheduler.yield_turn()
        done.append(number)

    tasks = [asyncio.create_task(caller(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert done == [0, 2, 4]
    await asyncio.wait_for(scheduler.yield_turn(), 10)
