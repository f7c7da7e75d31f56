"""An attributor in this process that does as it is told, for tests of clients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceServicer, add_AttributionServiceServicer_to_server
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceServicer, add_RoyaltyServiceServicer_to_server

Trouble = tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]
"""A status to end a call with, and what goes with it."""


class FakeAttributor(AttributionServiceServicer, RoyaltyServiceServicer):
    """Answers RECALLED and FINAL, once its `troubles` are used up: each ends one call.

    requests: those that came. posted: generation_id to how often FINAL was answered as new.
    """

    def __init__(self) -> None:
        self.troubles: list[Trouble] = []
        self.requests: list[attribution_v1.AttributeRequest] = []
        self.posted: dict[str, int] = {}
        self.address = ""
        self._lock = threading.Lock()

    def trouble(self, code: grpc.StatusCode, **metadata: str) -> None:
        """Let one more call end so; names of metadata have _ for -."""
        self.troubles.append((code, tuple((name.replace("_", "-"), value) for name, value in metadata.items())))

    def Attribute(  # noqa: N802 - gRPC names methods
        self, request: attribution_v1.AttributeRequest, context: grpc.ServicerContext
    ) -> Iterator[attribution_v1.AttributeResponse]:
        with self._lock:
            self.requests.append(request)
            trouble = self.troubles.pop(0) if self.troubles else None
        name = request.generation_id
        yield _answer(name, attribution_v1.STAGE_RECALLED)
        self._end_with(trouble, context)
        with self._lock:
            replayed = name in self.posted
            self.posted[name] = 1
        yield _answer(name, attribution_v1.STAGE_FINAL, replayed)

    def AttributeStream(  # noqa: N802
        self,
        request_iterator: Iterator[attribution_v1.AttributeStreamRequest],
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> Iterator[attribution_v1.AttributeStreamResponse]:
        for message in request_iterator:
            name = message.request.generation_id
            if message.request.image == b"bad":
                failure = attribution_v1.AttributeFailure(code=3, message="no image")
                yield attribution_v1.AttributeStreamResponse(generation_id=name, failure=failure)
            else:
                final = _answer(name, attribution_v1.STAGE_FINAL).attribution
                yield attribution_v1.AttributeStreamResponse(generation_id=name, attribution=final)

    def WatchRoyalties(  # noqa: N802
        self, request: royalty_v1.WatchRoyaltiesRequest, context: grpc.ServicerContext
    ) -> Iterator[royalty_v1.WatchRoyaltiesResponse]:
        for sequence in (request.after_sequence + 1, request.after_sequence + 2):
            yield royalty_v1.WatchRoyaltiesResponse(sequence=sequence)
        context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    def _end_with(self, trouble: Trouble | None, context: grpc.ServicerContext) -> None:
        if trouble is not None:
            code, metadata = trouble
            context.set_trailing_metadata(metadata)
            context.abort(code, "as it was told")


@contextmanager
def fake_attributor(address: str = "127.0.0.1:0") -> Iterator[FakeAttributor]:
    """A running one; `address` says where."""
    fake = FakeAttributor()  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
    server = grpc.server(ThreadPoolExecutor(8))
    register: list[Callable[[Any, grpc.Server], None]] = [
        add_AttributionServiceServicer_to_server,
        add_RoyaltyServiceServicer_to_server,
    ]
    for add in register:
        add(fake, server)
    port = server.add_insecure_port(address)
    fake.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(0).wait()


def _answer(
    name: str, stage: attribution_v1.Stage.ValueType, replayed: bool = False
) -> attribution_v1.AttributeResponse:
    attribution = attribution_v1.Attribution(generation_id=name, stage=stage, replayed=replayed)
    return attribution_v1.AttributeResponse(attribution=attribution)
