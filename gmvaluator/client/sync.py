"""A blocking client for generation servers and scripts."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gmvaluator.client.connection import Connection
from gmvaluator.client.requests import (
    DEADLINE_S,
    NO_RETRIES,
    SERVICE,
    Content,
    Retries,
    StreamRequests,
    attribute_request,
    failure_of,
    preview_request,
    translated,
)
from gmvaluator.errors import GmvaluatorError, Overloaded, Unavailable
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub

WATCH_AGAIN = Retries(attempts=1_000_000_000)


class AttributorClient:
    """Talks to one attributor. Thread-safe; use it as a context manager, or call `close`.

    Errors are those of `gmvaluator.errors`: InvalidInput, PreconditionFailed, NotFound, Conflict, Overloaded,
    Unavailable, Failure. After Overloaded or Unavailable the same image may be sent again under the same id: it
    is credited once. `retries` does so.
    """

    def __init__(self, server: str | Connection, deadline_s: float = DEADLINE_S, retries: Retries = NO_RETRIES) -> None:
        """server: host:port, with token and TLS from the environment's GMV_*, or a `Connection`.

        Raises InvalidInput or PreconditionFailed if these cannot work.
        """
        connection = Connection.from_environment(address=server) if isinstance(server, str) else server
        self.address = connection.address
        self._deadline_s = deadline_s
        self._retries = retries
        self._channel = connection.channel()
        self._attribution = AttributionServiceStub(self._channel)
        self._royalty = RoyaltyServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def wait_until_serving(self, timeout_s: float) -> None:
        """Block until health says SERVING. Raises Unavailable after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._serving():
            if time.monotonic() > deadline:
                raise Unavailable(f"the attributor at {self.address} does not serve after {timeout_s:.0f} s")
            time.sleep(0.1)

    def _serving(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            response = self._health.Check(request, timeout=2.0)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def attribute(
        self,
        image: Content,
        generation_id: str,
        model_version: str,
        generated_at: datetime | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[attribution_v1.Attribution]:
        """Value one image, or its embedding, and post its credits; yields RECALLED, RERANKED and FINAL as they arrive.

        What may be asked again (see `Retries`) is, until the deadline; a stage may then come twice.
        """
        request = attribute_request(image, generation_id, model_version, generated_at)
        for response in self._again(self._attribution.Attribute, request, deadline_s):
            yield response.attribution

    def attribute_many(
        self, images: Iterable[tuple[str, Content]], model_version: str, deadline_s: float | None = None
    ) -> Iterator[tuple[str, attribution_v1.Attribution | GmvaluatorError]]:
        """Value many (generation_id, image) pairs on one stream; yields (generation_id, stage or error) as they come.

        An image that fails does not end the others; one that cannot be sent is told with the next answer, or at the
        end. A cut raises Unavailable: send again what had no FINAL, under the same ids. `images` is read as the
        attributor takes them, from another thread; what it raises is raised here once those before are answered. No
        deadline unless one is given.
        """
        sending = StreamRequests(model_version)

        def requests() -> Iterator[attribution_v1.AttributeStreamRequest]:
            with sending.kept():
                for name, image in images:
                    yield from sending.request(name, image)

        with translated(self.address):
            for response in self._attribution.AttributeStream(requests(), timeout=deadline_s):
                yield from sending.refused()
                failed = response.HasField("failure")
                yield (
                    response.generation_id,
                    failure_of(response.failure, self.address) if failed else response.attribution,
                )
        yield from sending.refused()
        sending.check()

    def preview(self, image: bytes, model_version: str, policy: str = "") -> Iterator[attribution_v1.Attribution]:
        """As `attribute`, but nothing is posted."""
        for response in self._again(self._attribution.Preview, preview_request(image, model_version, policy), None):
            yield response.attribution

    def _again(self, call: Callable[..., Iterable[Any]], request: Any, deadline_s: float | None) -> Iterator[Any]:
        ends_at = time.monotonic() + (deadline_s or self._deadline_s)
        for attempt in itertools.count(1):
            left_s = ends_at - time.monotonic()
            try:
                with translated(self.address):
                    yield from call(request, timeout=left_s)
                    return
            except (Overloaded, Unavailable) as error:
                pause_s = self._retries.pause_s(error, attempt, ends_at - time.monotonic())
                if pause_s is None:
                    raise
            time.sleep(pause_s)

    def get_attribution(self, generation_id: str) -> attribution_v1.Attribution:
        """What was posted for a generation. Raises NotFound."""
        request = attribution_v1.GetAttributionRequest(generation_id=generation_id)
        with translated(self.address):
            return self._attribution.GetAttribution(request, timeout=self._deadline_s).attribution

    def royalties(self, page_size: int = 100) -> Iterator[royalty_v1.Royalty]:
        """Balances of all accounts, by account name."""
        token = ""
        while True:
            request = royalty_v1.GetRoyaltiesRequest(page_size=page_size, page_token=token)
            with translated(self.address):
                page = self._royalty.GetRoyalties(request, timeout=self._deadline_s)
            yield from page.royalties
            token = page.next_page_token
            if not token:
                return

    def watch_royalties(
        self, after_sequence: int = 0, resume: bool = False
    ) -> Iterator[royalty_v1.WatchRoyaltiesResponse]:
        """Every posting after a sequence, then each new one; without end until the attributor stops.

        resume: after a cut, go on from the last posting seen for as long as it takes, instead of raising Unavailable.
        """
        attempt = 1
        while True:
            request = royalty_v1.WatchRoyaltiesRequest(after_sequence=after_sequence)
            try:
                with translated(self.address):
                    for posting in self._royalty.WatchRoyalties(request):
                        yield posting
                        after_sequence, attempt = posting.sequence, 1
            except (Overloaded, Unavailable):
                if not resume:
                    raise
            else:
                if not resume:
                    return
            time.sleep(WATCH_AGAIN.pause_s(Unavailable(""), attempt, math.inf) or 0.0)
            attempt += 1

    def open_dispute(
        self,
        dispute_id: str,
        reason: str,
        training_image_id: str = "",
        generation_id: str = "",
        claimant: str = "",
    ) -> royalty_v1.OpenDisputeResponse:
        """Open a dispute about a training image's credits, a generation's, or the one's within the other.

        dispute_id: the caller's own, used once for ever; the same request again answers the dispute as it stands.
        """
        request = royalty_v1.OpenDisputeRequest(
            dispute_id=dispute_id,
            training_image_id=training_image_id,
            generation_id=generation_id,
            claimant=claimant,
            reason=reason,
        )
        with translated(self.address):
            return self._royalty.OpenDispute(request, timeout=self._deadline_s)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> AttributorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
