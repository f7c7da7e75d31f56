"""A fake attributor on loopback, for tests of programs that call one.

    with fake_attributor() as attributor, AttributorClient(attributor.address) as client:
        attributor.fail_next(grpc.StatusCode.UNAVAILABLE)
        with pytest.raises(Unavailable):
            list(client.attribute(image, "generation-1", "demo-1"))
        assert not attributor.posted

It speaks the real protocol, and needs no index, models or ledger.
"""

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

StatusAndMetadata = tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]
"""A status to end a call with, and its trailing metadata."""


class FakeAttributor(AttributionServiceServicer, RoyaltyServiceServicer):
    """A servicer that answers RECALLED and FINAL for any image, unless a failure is scheduled.

    failures: scheduled by `fail_next`; each ends one `Attribute` call after RECALLED. requests: the `Attribute`
    requests received. posted: number of FINALs answered as new, by generation id; a repeated id is answered as
    replayed. accounts: balances in micro-credits that `GetRoyalties` returns. disputes: `OpenDispute` requests by id.
    On a stream, an image of the bytes `bad` fails with INVALID_ARGUMENT. Other methods are UNIMPLEMENTED.
    """

    def __init__(self) -> None:
        self.failures: list[StatusAndMetadata] = []
        self.requests: list[attribution_v1.AttributeRequest] = []
        self.posted: dict[str, int] = {}
        self.accounts: dict[str, int] = {}
        self.disputes: dict[str, royalty_v1.OpenDisputeRequest] = {}
        self.address = ""
        self._lock = threading.Lock()

    def fail_next(self, code: grpc.StatusCode, **metadata: str) -> None:
        """Make one more `Attribute` call fail with this status; underscores in names of metadata become hyphens."""
        self.failures.append((code, tuple((name.replace("_", "-"), value) for name, value in metadata.items())))

    def Attribute(  # noqa: N802 - gRPC names methods
        self, request: attribution_v1.AttributeRequest, context: grpc.ServicerContext
    ) -> Iterator[attribution_v1.AttributeResponse]:
        """Answer RECALLED, then FINAL or the next scheduled failure."""
        with self._lock:
            self.requests.append(request)
            failure = self.failures.pop(0) if self.failures else None
        generation_id = request.generation_id
        yield _response(generation_id, attribution_v1.STAGE_RECALLED)
        if failure is not None:
            code, metadata = failure
            context.set_trailing_metadata(metadata)
            context.abort(code, "a scheduled failure")
        with self._lock:
            replayed = generation_id in self.posted
            self.posted[generation_id] = 1
        yield _response(generation_id, attribution_v1.STAGE_FINAL, replayed)

    def AttributeStream(  # noqa: N802
        self,
        request_iterator: Iterator[attribution_v1.AttributeStreamRequest],
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> Iterator[attribution_v1.AttributeStreamResponse]:
        """Answer FINAL for each image, or a failure for the bytes `bad`."""
        for message in request_iterator:
            generation_id = message.request.generation_id
            if message.request.image == b"bad":
                failure = attribution_v1.AttributeFailure(code=3, message="no image")
                yield attribution_v1.AttributeStreamResponse(generation_id=generation_id, failure=failure)
            else:
                final = _response(generation_id, attribution_v1.STAGE_FINAL).attribution
                yield attribution_v1.AttributeStreamResponse(generation_id=generation_id, attribution=final)

    def GetRoyalties(  # noqa: N802
        self,
        request: royalty_v1.GetRoyaltiesRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> royalty_v1.GetRoyaltiesResponse:
        """Return a page of `accounts` by name; the page's token is the last account of the page before."""
        names = sorted(name for name in self.accounts if name > request.page_token)
        page = names[: request.page_size or len(names)]
        return royalty_v1.GetRoyaltiesResponse(
            royalties=[royalty_v1.Royalty(account=name, balance_micros=self.accounts[name]) for name in page],
            next_page_token=page[-1] if len(page) < len(names) else "",
        )

    def OpenDispute(  # noqa: N802
        self,
        request: royalty_v1.OpenDisputeRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> royalty_v1.OpenDisputeResponse:
        """Record the request and return its dispute."""
        with self._lock:
            self.disputes[request.dispute_id] = request
        return royalty_v1.OpenDisputeResponse(dispute_id=request.dispute_id)

    def WatchRoyalties(  # noqa: N802
        self, request: royalty_v1.WatchRoyaltiesRequest, context: grpc.ServicerContext
    ) -> Iterator[royalty_v1.WatchRoyaltiesResponse]:
        """Answer the next two postings, then end the stream as a lost connection does."""
        for sequence in (request.after_sequence + 1, request.after_sequence + 2):
            yield royalty_v1.WatchRoyaltiesResponse(sequence=sequence)
        context.abort(grpc.StatusCode.UNAVAILABLE, "cut")


@contextmanager
def fake_attributor(address: str = "127.0.0.1:0") -> Iterator[FakeAttributor]:
    """Run a `FakeAttributor` in threads of this process until the block ends; its `address` is host:port."""
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


def _response(
    generation_id: str, stage: attribution_v1.Stage.ValueType, replayed: bool = False
) -> attribution_v1.AttributeResponse:
    attribution = attribution_v1.Attribution(generation_id=generation_id, stage=stage, replayed=replayed)
    return attribution_v1.AttributeResponse(attribution=attribution)
