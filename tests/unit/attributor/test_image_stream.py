"""Many images on one stream: out of order, each on its own, bounded, and nothing left behind."""

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


class Images:
    """Values images: two stages each, the second once the image is let go. They have their places while `room`."""

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


def said(answer: v1.AttributeStreamResponse) -> tuple[str, int]:
    return answer.generation_id, answer.attribution.stage or -answer.failure.code


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - several tasks change what is waited for
            await asyncio.sleep(0.005)


async def test_answers_come_as_they_are_ready_and_the_stream_ends_with_the_last() -> None:
    images, heard = Images(), []
    async for answer in ImageStream(images.stages, asyncio.Event()).answers(sent(image("a"), image("b"))):
        heard.append(said(answer))
        if len(heard) == 2:
            images.gate("b").set()
        if heard[-1] == ("b", v1.STAGE_FINAL):
            images.gate("a").set()
    assert heard[2:] == [("b", v1.STAGE_FINAL), ("a", v1.STAGE_FINAL)]


async def test_an_image_that_fails_fails_alone() -> None:
    images = Images()
    images.gate("good").set()
    requests = sent(image("bad", b"bad"), image("broken", b"broken"), image("good"))
    heard = [said(answer) async for answer in ImageStream(images.stages, asyncio.Event()).answers(requests)]
    assert ("bad", -3) in heard
    assert ("broken", -13) in heard
    assert ("good", v1.STAGE_FINAL) in heard


async def test_the_same_id_twice_at_once_is_refused() -> None:
    images = Images()
    heard = []
    async for answer in ImageStream(images.stages, asyncio.Event()).answers(sent(image("a"), image("a"))):
        heard.append(said(answer))
        if ("a", -6) in heard:
            images.gate("a").set()
    assert heard.count(("a", v1.STAGE_FINAL)) == 1


async def test_no_more_than_so_many_are_read_at_once() -> None:
    images = Images()
    requests = [image(f"g{number}") for number in range(3 * MAX_IMAGES)]
    stream = ImageStream(images.stages, asyncio.Event())
    async with aclosing(stream.answers(sent(*requests))) as answers:
        for _ in range(MAX_IMAGES):
            await anext(answers)
        await asyncio.sleep(0.02)
        assert len(images.gates) == MAX_IMAGES
    await until(lambda: len(images.ended) == MAX_IMAGES)


async def test_a_caller_who_leaves_leaves_nothing_behind() -> None:
    images, hold = Images(), asyncio.Event()
    stream = ImageStream(images.stages, asyncio.Event())
    async with aclosing(stream.answers(sent(image("a"), image("b"), hold=hold))) as answers:
        await anext(answers)
        await anext(answers)
    assert sorted(images.ended) == ["a", "b"]


async def test_when_the_attributor_stops_what_is_under_way_is_answered_first() -> None:
    images, stopping, heard = Images(), asyncio.Event(), []
    stream = ImageStream(images.stages, stopping)
    answers = stream.answers(sent(image("a"), hold=asyncio.Event()))
    heard.append(said(await anext(answers)))
    stopping.set()
    images.gate("a").set()
    heard.append(said(await anext(answers)))
    with pytest.raises(Unavailable, match="stopping"):
        await anext(answers)
    assert heard == [("a", v1.STAGE_RECALLED), ("a", v1.STAGE_FINAL)]


async def test_nothing_more_is_read_while_an_image_waits_for_its_place() -> None:
    images, read = Images(), []

    async def requests() -> AsyncIterator[v1.AttributeStreamRequest]:
        for number in range(10):
            read.append(number)
            yield image(f"g{number}")

    images.room.clear()
    stream = ImageStream(images.stages, asyncio.Event())
    async with aclosing(stream.answers(requests())) as answers:
        first = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0.02)
        assert read == [0]
        images.room.set()
        await first
        await until(lambda: len(read) == 10)


async def test_a_stream_that_nobody_reads_is_given_up_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "WRITE_TIMEOUT_S", 0.02)
    monkeypatch.setattr(image_stream, "MAX_UNREAD", 1)
    images = Images()
    for number in range(100):
        images.gate(f"g{number}").set()
    requests = [image("held"), *(image(f"g{number}") for number in range(100))]
    stalled = cast(interceptors.Context, SimpleNamespace(write=lambda _: asyncio.Event().wait()))

    with pytest.raises(Unavailable, match="nobody read"):
        await ImageStream(images.stages, asyncio.Event()).answer(
            sent(*requests), lambda answer: interceptors.write_with_timeout(answer, stalled)
        )
    assert len(images.ended) <= MAX_IMAGES
    assert "held" in images.ended
