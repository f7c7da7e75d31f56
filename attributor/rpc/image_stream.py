"""Many images on one stream: a bounded number at once, answered as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from gmvaluator.errors import Conflict, Failure, GmvaluatorError, InvalidInput, Unavailable, status_of
from gmvaluator.ids import MAX_GENERATION_ID_CHARACTERS
from gmvaluator.v1 import attribution_pb2 as attribution_v1

MAX_IMAGES = 32
"""Images of one stream at once; no more are read until one of them is done."""

MAX_UNREAD = 64
"""Answers that wait for a reader who is slow; the images they belong to wait with them."""

Request = attribution_v1.AttributeStreamRequest
Response = attribution_v1.AttributeStreamResponse
Stages = Callable[[attribution_v1.AttributeRequest, Callable[[], None]], AsyncIterator[attribution_v1.Attribution]]
_log = structlog.get_logger("attributor")


class ImageStream:
    """One stream.

    stages: values one image, and raises as Attribute does; it waits for its place in the service, and says when it has
    it by calling what it is given.
    """

    def __init__(self, stages: Stages, stopping: asyncio.Event) -> None:
        self._stages = stages
        self._stopping = stopping
        self._places = asyncio.Semaphore(MAX_IMAGES)
        self._answers: asyncio.Queue[Response | None] = asyncio.Queue(MAX_UNREAD)
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def answer(self, requests: AsyncIterator[Request], write: Callable[[Response], Awaitable[None]]) -> None:
        """Write what is answered. Raises what `answers` and `write` raise.

        When this returns or raises, nothing of the stream is under way any more.
        """
        async with aclosing(self.answers(requests)) as answers:
            async for answer in answers:
                await write(answer)

    async def answers(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """What is answered, until the caller has closed its side and all was answered.

        Raises Unavailable if the attributor stops; images under way are answered first.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
            await reading
        finally:
            await self._end(reading)

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        """Begin each image that arrives; put None once all are answered."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            while (request := await self._next(requests, stopped)) is not None:
                await self._begin(request.request)
            while self._under_way:
                await asyncio.wait(list(self._under_way.values()))
            if self._stopping.is_set():
                raise Unavailable("the attributor is stopping: send what had no FINAL again, with the same ids")
        finally:
            stopped.cancel()
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await self._answers.put(None)

    async def _next(self, requests: AsyncIterator[Request], stopped: asyncio.Task[Any]) -> Request | None:
        coming: asyncio.Task[Request | None] = asyncio.ensure_future(_first(requests))
        try:
            await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else None
        finally:
            coming.cancel()

    async def _begin(self, request: attribution_v1.AttributeRequest) -> None:
        """Return once the image has its place in the service, or has ended: until then no other is held in memory."""
        await self._places.acquire()
        name = request.generation_id[:MAX_GENERATION_ID_CHARACTERS]
        if name in self._under_way:
            self._places.release()
            await self._fail(name, Conflict(f"generation {name} is under way on this stream: wait for its FINAL"))
            return
        admitted = asyncio.Event()
        task = asyncio.create_task(self._value(name, request, admitted.set))
        self._under_way[name] = task
        task.add_done_callback(lambda _: self._done(name, admitted))
        await admitted.wait()

    def _done(self, name: str, admitted: asyncio.Event) -> None:
        del self._under_way[name]
        self._places.release()
        admitted.set()

    async def _value(
        self, name: str, request: attribution_v1.AttributeRequest, on_admitted: Callable[[], None]
    ) -> None:
        try:
            async with aclosing(self._stages(request, on_admitted)) as stages:  # type: ignore[type-var]
                async for stage in stages:
                    await self._answers.put(Response(generation_id=name, attribution=stage))
        except GmvaluatorError as error:
            await self._fail(name, error)
        except Exception:  # noqa: BLE001 - the border: a caller gets INTERNAL, the log gets the rest
            _log.exception("broke", method="AttributeStream", generation_id=name)
            await self._fail(name, Failure("the attributor broke on this image; its log says more"))

    async def _fail(self, name: str, error: GmvaluatorError) -> None:
        level = _log.error if isinstance(error, Failure) else _log.info
        level("refused", method="AttributeStream", generation_id=name, error=str(error))
        (code, _) = grpc.StatusCode[status_of(error)].value
        failure = attribution_v1.AttributeFailure(code=code, message=str(error))
        await self._answers.put(Response(generation_id=name, failure=failure))

    async def _end(self, reading: asyncio.Task[None]) -> None:
        """Cancel what is under way; a posting that has begun is finished by the pipeline all the same."""
        tasks = [reading, *self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first(requests: AsyncIterator[Request]) -> Request | None:
    async for request in requests:
        if not request.HasField("request"):
            raise InvalidInput("a message of the stream holds no request: set `request`")
        return request
    return None
