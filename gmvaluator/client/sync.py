"""A blocking client for generation servers and scripts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gmvaluator.client.connection import Connection
from gmvaluator.client.statuses import translated
from gmvaluator.errors import ImageTooLarge, Unavailable
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1 import royalty_pb2 as royalty_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub
from gmvaluator.v1.royalty_pb2_grpc import RoyaltyServiceStub

SERVICE = "gmvaluator.v1.AttributionService"
DEADLINE_S = 60.0


class AttributorClient:
    """Talks to one attributor. Thread-safe; use it as a context manager, or call `close`.

    Errors are those of `gmvaluator.errors`: InvalidInput, PreconditionFailed, NotFound, Conflict, Overloaded,
    Unavailable, Failure. After Overloaded or Unavailable the same image may be sent again under the same id: it
    is credited once.
    """

    def __init__(self, server: str | Connection, deadline_s: float = DEADLINE_S) -> None:
        """server: host:port, with token and TLS from the environment's GMV_*, or a `Connection`.

        Raises InvalidInput or PreconditionFailed if these cannot work.
        """
        connection = Connection.from_environment(address=server) if isinstance(server, str) else server
        self.address = connection.address
        self._deadline_s = deadline_s
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
        self, image: bytes, generation_id: str, model_version: str, generated_at: datetime | None = None
    ) -> Iterator[attribution_v1.Attribution]:
        """Value one image and post its credits; yields RECALLED, RERANKED and FINAL as they arrive."""
        check_size(image)
        request = attribution_v1.AttributeRequest(
            generation_id=generation_id, model_version=model_version, image=image, generated_at=_stamp(generated_at)
        )
        with translated(self.address):
            for response in self._attribution.Attribute(request, timeout=self._deadline_s):
                yield response.attribution

    def preview(self, image: bytes, model_version: str, policy: str = "") -> Iterator[attribution_v1.Attribution]:
        """As `attribute`, but nothing is posted."""
        check_size(image)
        request = attribution_v1.PreviewRequest(model_version=model_version, image=image, policy=policy)
        with translated(self.address):
            for response in self._attribution.Preview(request, timeout=self._deadline_s):
                yield response.attribution

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

    def watch_royalties(self, after_sequence: int = 0) -> Iterator[royalty_v1.WatchRoyaltiesResponse]:
        """Every posting after a sequence, then each new one; without end until the attributor stops."""
        request = royalty_v1.WatchRoyaltiesRequest(after_sequence=after_sequence)
        with translated(self.address):
            yield from self._royalty.WatchRoyalties(request)

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


def check_size(image: bytes) -> None:
    """Raises ImageTooLarge before anything is sent."""
    if len(image) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"the image has {len(image):,} bytes; the limit is {MAX_IMAGE_BYTES:,}: send a smaller one")


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
