"""Image streams: responses out of order, failures of single images, bounds and cancellation."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import cast

import pytest

from attributor.rpc import image_stream, interceptors
from attributor.rpc.image_stream import MAX_IMAGES, ImageStream
from gmvaluator.errors import InvalidImage, Unavailable
from gmvaluator.v1 import attribution_pb2 as v1
from tests.support.waiting import let_tasks_run, until_async


class Images:
    """Values images in two stages, the second once the image's gate is set; admits them while `room` is set."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.ended: list[str] = []
        self.room = asyncio.Event()
        self.room.set()

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def stages(
        self, request: v1.AttributeRequest, on_admitted: Callable[[], None]
    ) -> AsyncIterator[v1.Attribution]:
        try:
            await self.room.wait()
            on_admitted()
            if request.image == b"bad":
                raise InvalidImage("no image")
            if request.image == b"broken":
                raise ZeroDivisionError
            yield v1.Attribution(generation_id=request.generation_id, stage=v1.STAGE_RECALLED)
            await self.gate(request.generation_id).wait()
            yield v1.Attribution(generation_id=request.generation_id, stage=v1.STAGE_FINAL)
        finally:
            self.ended.append(request.generation_id)


def image(name: str, content: bytes = b"x") -> v1.AttributeStreamRequest:
    return v1.AttributeStreamRequest(request=v1.AttributeRequest(generation_id=name, image=content))


async def sent(
    *requests: v1.AttributeStreamRequest, hold: asyncio.Event | None = None
) -> AsyncIterator[v1.AttributeStreamRequest]:
    for request in requests:
        yield request
    if hold is not None:
        await hold.wait()


def outcome(response: v1.AttributeStreamResponse) -> tuple[str, int]:
    """Return the id, and the stage or the negative status code."""
    return response.generation_id, response.attribution.stage or -response.failure.code


async def test_answers_come_as_they_are_ready_and_the_stream_ends_with_the_last() -> None:
    images, outcomes = Images(), []
    async for response in ImageStream(images.stages, asyncio.Event()).responses(sent(image("a"), image("b"))):
        outcomes.append(outcome(response))
        if len(outcomes) == 2:
            images.gate("b").set()
        if outcomes[-1] == ("b", v1.STAGE_FINAL):
            images.gate("a").set()
    assert outcomes[2:] == [("b", v1.STAGE_FINAL), ("a", v1.STAGE_FINAL)]


async def test_an_image_that_fails_fails_alone() -> None:
    images = Images()
    images.gate("good").set()
    requests = sent(image("bad", b"bad"), image("broken", b"broken"), image("good"))
    outcomes = [outcome(response) async for response in ImageStream(images.stages, asyncio.Event()).responses(requests)]
    assert ("bad", -3) in outcomes
    assert ("broken", -13) in outcomes
    assert ("good", v1.STAGE_FINAL) in outcomes


async def test_the_same_id_twice_at_once_is_refused() -> None:
    images = Images()
    outcomes = []
    async for response in ImageStream(images.stages, asyncio.Event()).responses(sent(image("a"), image("a"))):
        outcomes.append(outcome(response))
        if ("a", -6) in outcomes:
            images.gate("a").set()
    assert outcomes.count(("a", v1.STAGE_FINAL)) == 1


async def test_a_bounded_number_of_images_is_read_at_once() -> None:
    images = Images()
    requests = [image(f"g{number}") for number in range(3 * MAX_IMAGES)]
    stream = ImageStream(images.stages, asyncio.Event())
    async with aclosing(stream.responses(sent(*requests))) as responses:
        for _ in range(MAX_IMAGES):
            await anext(responses)
        await let_tasks_run()
        assert len(images.gates) == MAX_IMAGES
    await until_async(lambda: len(images.ended) == MAX_IMAGES)


async def test_images_of_a_cancelled_stream_end() -> None:
    images, hold = Images(), asyncio.Event()
    stream = ImageStream(images.stages, asyncio.Event())
    async with aclosing(stream.responses(sent(image("a"), image("b"), hold=hold))) as responses:
        await anext(responses)
        await anext(responses)
    assert sorted(images.ended) == ["a", "b"]


async def test_on_shutdown_images_in_flight_are_answered_first() -> None:
    images, stopping, outcomes = Images(), asyncio.Event(), []
    stream = ImageStream(images.stages, stopping)
    responses = stream.responses(sent(image("a"), hold=asyncio.Event()))
    outcomes.append(outcome(await anext(responses)))
    stopping.set()
    images.gate("a").set()
    outcomes.append(outcome(await anext(responses)))
    with pytest.raises(Unavailable, match="stopping"):
        await anext(responses)
    assert outcomes == [("a", v1.STAGE_RECALLED), ("a", v1.STAGE_FINAL)]


async def test_nothing_more_is_read_while_an_image_waits_for_admission() -> None:
    images, read = Images(), []

    async def requests() -> AsyncIterator[v1.AttributeStreamRequest]:
        for number in range(10):
            read.append(number)
            yield image(f"g{number}")

    images.room.clear()
    stream = ImageStream(images.stages, asyncio.Event())
    async with aclosing(stream.responses(requests())) as responses:
        first = asyncio.ensure_future(anext(responses))
        await let_tasks_run()
        assert read == [0]
        images.room.set()
        await first
        await until_async(lambda: len(read) == 10)


async def test_a_stream_whose_reader_stalls_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "WRITE_TIMEOUT_S", 0.02)
    monkeypatch.setattr(image_stream, "MAX_UNREAD", 1)
    images = Images()
    for number in range(100):
        images.gate(f"g{number}").set()
    requests = [image("held"), *(image(f"g{number}") for number in range(100))]
    stalled = cast(interceptors.Context, SimpleNamespace(write=lambda _: asyncio.Event().wait()))

    with pytest.raises(Unavailable, match="nobody read"):
        await ImageStream(images.stages, asyncio.Event()).answer(
            sent(*requests), lambda response: interceptors.write_with_timeout(response, stalled)
        )
    assert len(images.ended) <= MAX_IMAGES
    assert "held" in images.ended
