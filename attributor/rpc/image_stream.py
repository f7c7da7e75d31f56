"""AttributeStream: many images on one stream, a bounded number at once, answered as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from gmvaluator.errors import Conflict, Failure, GmvaluatorError, InvalidInput, Overloaded, Unavailable, status_of
from gmvaluator.ids import MAX_GENERATION_ID_CHARACTERS
from gmvaluator.v1 import attribution_pb2 as attribution_v1

MAX_IMAGES = 32
"""Maximum number of images of one stream in flight; no more are read until one of them is done."""

MAX_UNREAD = 64
"""Limit of responses that wait for a slow reader; then the images stop at their next response (back-pressure)."""

Request = attribution_v1.AttributeStreamRequest
Response = attribution_v1.AttributeStreamResponse
Stages = Callable[[attribution_v1.AttributeRequest, Callable[[], None]], AsyncIterator[attribution_v1.Attribution]]
"""Values an image: takes the request and a function to call once the image is admitted."""

_log = structlog.get_logger("attributor")


class ImageStream:
    """The state of one stream. An image that fails fails alone; its error is a response of its own."""

    def __init__(self, stages: Stages, stopping: asyncio.Event, gives_way: asyncio.Event | None = None) -> None:
        """stages: raises what Attribute raises. stopping: set when shutdown begins; then no more images are read.

        gives_way: set when another stream takes this one's slot; likewise.
        """
        self._stages = stages
        self._stopping = stopping
        self._gives_way = gives_way or asyncio.Event()
        self._slots = asyncio.Semaphore(MAX_IMAGES)
        self._responses: asyncio.Queue[Response | None] = asyncio.Queue(MAX_UNREAD)
        self._in_flight: dict[str, asyncio.Task[None]] = {}

    @property
    def idle(self) -> bool:
        """True if no image is in flight and every response was taken."""
        return not self._in_flight and self._responses.empty()

    async def answer(self, requests: AsyncIterator[Request], write: Callable[[Response], Awaitable[None]]) -> None:
        """Write all responses. Raises what `responses` and `write` raise.

        When this returns or raises, no image of the stream is in flight any more.
        """
        async with aclosing(self.responses(requests)) as responses:
            async for response in responses:
                await write(response)

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """Yield responses until the caller has closed its side and every image is answered.

        Raises Unavailable if the attributor stops, Overloaded if the stream gives way; images in flight are answered
        first.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (response := await self._responses.get()) is not None:
                yield response
            await reading
        finally:
            await self._end(reading)

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        """Start each image that arrives; put None once all are answered."""
        stopped = asyncio.create_task(self._told_to_end())
        try:
            while (request := await self._next(requests, stopped)) is not None:
                await self._start(request.request)
            while self._in_flight:
                await asyncio.wait(list(self._in_flight.values()))
            if self._stopping.is_set():
                raise Unavailable("the attributor is stopping: send what had no FINAL again, with the same ids")
            if self._gives_way.is_set():
                raise Overloaded("every stream is taken, and this one was idle: open it again when there is an image")
        finally:
            stopped.cancel()
            # Whoever cancelled this task reads no more responses, and a full queue would block it here.
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await self._responses.put(None)

    async def _told_to_end(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._gives_way)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _next(self, requests: AsyncIterator[Request], stopped: asyncio.Task[Any]) -> Request | None:
        """Read a request; return None at the end of the stream, or when the attributor stops."""
        reading: asyncio.Task[Request | None] = asyncio.ensure_future(_read_one(requests))
        try:
            await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()

    async def _start(self, request: attribution_v1.AttributeRequest) -> None:
        """Start an image; return once it is admitted, or has ended, so that one waiting image is held in memory."""
        await self._slots.acquire()
        name = request.generation_id[:MAX_GENERATION_ID_CHARACTERS]
        if name in self._in_flight:
            self._slots.release()
            await self._fail(name, Conflict(f"generation {name} is under way on this stream: wait for its FINAL"))
            return
        admitted = asyncio.Event()
        task = asyncio.create_task(self._value(name, request, admitted.set))
        self._in_flight[name] = task
        task.add_done_callback(lambda _: self._done(name, admitted))
        await admitted.wait()

    def _done(self, name: str, admitted: asyncio.Event) -> None:
        del self._in_flight[name]
        self._slots.release()
        admitted.set()

    async def _value(
        self, name: str, request: attribution_v1.AttributeRequest, on_admitted: Callable[[], None]
    ) -> None:
        try:
            async with aclosing(self._stages(request, on_admitted)) as stages:  # type: ignore[type-var]
                async for stage in stages:
                    await self._responses.put(Response(generation_id=name, attribution=stage))
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
        await self._responses.put(Response(generation_id=name, failure=failure))

    async def _end(self, reading: asyncio.Task[None]) -> None:
        """Cancel the images in flight; the pipeline still finishes a posting that has begun."""
        tasks = [reading, *self._in_flight.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_one(requests: AsyncIterator[Request]) -> Request | None:
    async for request in requests:
        if not request.HasField("request"):
            raise InvalidInput("a message of the stream holds no request: set `request`")
        return request
    return None
