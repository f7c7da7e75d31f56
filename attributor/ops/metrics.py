"""What an operator watches, for Prometheus. Names end in their unit; labels have few values.

What files say when somebody scrapes: when certificates expire, and what the last check of the ledger found.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from attributor.core.attribution import Attribution, ImageRequest, Stage
from attributor.core.pipeline import Pipeline
from attributor.rpc.call_limits import CallGate
from attributor.rpc.tls import MAX_FILE_BYTES
from attributor.settings import AttributorSettings
from attributor.workers.decoder_pool import DecoderPool
from attributor.workers.model_worker import ModelWorker
from gmvaluator.errors import GmvaluatorError, PreconditionFailed
from gmvaluator.index.schema import growth_since_verified, outgrown
from gmvaluator.ledger.verification import read_verification
from gmvaluator.ports import CollectionInfo

REGISTRY = CollectorRegistry()
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_MILLION = 1_000_000
LAG_PERIOD_S = 0.01
LOOKS_PER_COUNT = 100
RECALL_PERIOD_S = 300.0
"""Between two looks at what `index verify` measured last."""

stage_seconds = Histogram(
    "gmvaluator_stage_seconds",
    "Time of a valued image by stage; embed is the model's, post the ledger's until it is durable, total a caller's.",
    ["stage"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
images = Counter(
    "gmvaluator_images", "Images answered with FINAL: posted, replayed or preview.", ["how"], registry=REGISTRY
)
refusals = Counter("gmvaluator_refusals", "Calls that ended in an error, by its name in the error tree.", ["reason"],
                   registry=REGISTRY)  # fmt: skip
issued_credits = Counter("gmvaluator_issued_credits", "Credits posted, those of nobody included.", registry=REGISTRY)
unattributed_credits = Counter("gmvaluator_unattributed_credits", "Credits posted to nobody.", registry=REGISTRY)
quality = Histogram(
    "gmvaluator_quality", "Quality of posted images in 0..1, higher is better.",
    buckets=[number / 10 for number in range(1, 11)], registry=REGISTRY,
)  # fmt: skip
batch_images = Histogram(
    "gmvaluator_batch_images", "Images a forward pass.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=REGISTRY
)
model_seconds = Histogram("gmvaluator_model_seconds", "Time of a forward pass.", buckets=_SECONDS, registry=REGISTRY)
loop_lag_seconds = Histogram(
    "gmvaluator_event_loop_lag_seconds", "How much later than asked the event loop woke up.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.05, 0.1, 0.25, 1.0),
    registry=REGISTRY,
)  # fmt: skip
loop_lag_max_seconds = Gauge(
    "gmvaluator_event_loop_lag_max_seconds", "The longest lag since the start.", registry=REGISTRY
)
dropped_log_lines = Counter(
    "gmvaluator_dropped_log_lines", "Lines of the log that nobody read in time.", registry=REGISTRY
)
loop_tasks = Gauge("gmvaluator_event_loop_tasks", "Tasks of the event loop, counted once a second.", registry=REGISTRY)
index_recall = Gauge(
    "gmvaluator_index_recall", "Recall of the index against exact search, as last measured by `index verify`.",
    ["collection"], registry=REGISTRY,
)  # fmt: skip
index_growth = Gauge(
    "gmvaluator_index_growth_since_verified_ratio",
    "Points added since `index verify` measured recall, as a share of those it saw.",
    ["collection"],
    registry=REGISTRY,
)
unkept_images = Counter(
    "gmvaluator_unkept_images", "Thumbnails of generated images that could not be kept or swept.", registry=REGISTRY
)

_STAGES = ("lookup", "decode", "queue", "embed", "recall", "rerank", "quality", "post", "total")
_log = structlog.get_logger("attributor")


def observe_refusal(error: Exception) -> None:
    """A call ended in `error`."""
    refusals.labels(type(error).__name__ if isinstance(error, GmvaluatorError) else "unexpected").inc()


def observe_unkept(problem: str) -> None:
    """A picture that was to be kept is not; credits do not depend on it."""
    unkept_images.inc()
    _log.warning("not kept", problem=problem)


def observe_batch(count: int, seconds: float) -> None:
    """The models answered a batch."""
    batch_images.observe(count)
    model_seconds.observe(seconds)


def observe_collection(info: CollectionInfo) -> None:
    """A collection was opened or looked at again: tell its recall, if `gmvaluator index verify` measured it, and by how
    much it has grown since."""
    for name, value in (info.metadata.get("measured") or {}).items():
        if re.fullmatch(r"recall_at_\d+", name):
            index_recall.labels(info.name).set(value)
    growth = growth_since_verified(info)
    if growth is not None:
        index_growth.labels(info.name).set(growth)
    if outgrown(info):
        _log.warning(
            "recall", problem="the collection has grown since it was verified: run `gmvaluator index verify`",
            collection=info.name, growth=round(growth or 0.0, 2),
        )  # fmt: skip


def observe_final(final: Attribution) -> None:
    """An image was answered: count it, and write its line in the log."""
    how = "replayed" if final.replayed else "preview" if final.sequence is None else "posted"
    images.labels(how).inc()
    timings = final.timings.as_dict()
    if how != "replayed":
        for stage in _STAGES:
            stage_seconds.labels(stage).observe(timings[f"{stage}_ms"] / 1000)
    if how == "posted":
        issued_credits.inc((final.issued_micros or 0) / _MILLION)
        unattributed_credits.inc((final.unattributed_micros or 0) / _MILLION)
        quality.observe(final.quality or 0.0)
    _log.info(
        how,
        generation_id=final.generation_id,
        model_version=final.model_version,
        sequence=final.sequence,
        issued_micros=final.issued_micros,
        total_ms=timings["total_ms"],
    )


class ObservedPipeline(Pipeline):
    """A pipeline whose answers are counted."""

    @classmethod
    def around(cls, pipeline: Pipeline) -> ObservedPipeline:
        return cls(**{name: getattr(pipeline, name) for name in Pipeline.__dataclass_fields__})

    async def attribute(self, request: ImageRequest) -> AsyncGenerator[Attribution, None]:
        async with aclosing(super().attribute(request)) as stages:
            async for stage in stages:
                if stage.stage is Stage.FINAL:
                    observe_final(stage)
                yield stage

    async def preview(self, request: ImageRequest) -> AsyncGenerator[Attribution, None]:
        async with aclosing(super().preview(request)) as stages:
            async for stage in stages:
                if stage.stage is Stage.FINAL:
                    observe_final(stage)
                yield stage


class RuntimeCollector(Collector):
    """What is asked of the parts when somebody scrapes."""

    def __init__(self, service: CallGate, worker: ModelWorker, decoder: DecoderPool) -> None:
        self._service = service
        self._worker = worker
        self._decoder = decoder

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "gmvaluator_in_flight": ("Calls being answered.", self._service.in_flight),
            "gmvaluator_queue_images": ("Images that wait for the models.", self._worker.waiting),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        counts, decoded = self._worker.counts, self._decoder.counts
        counters = {
            "gmvaluator_model_dropped_images": ("Images whose caller had gone before their batch.", counts.dropped),
            "gmvaluator_model_failed_images": ("Images that the models failed on.", counts.failed),
            "gmvaluator_model_restarts": ("Times the models' process was replaced.", counts.restarts),
            "gmvaluator_decoded_images": ("Images decoded.", decoded.decoded),
            "gmvaluator_undecodable_images": ("Images refused by a decoder.", decoded.refused),
            "gmvaluator_decoder_restarts": ("Times a decoder's process was replaced.", decoded.restarts),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value)


@asynccontextmanager
async def loop_watched() -> AsyncGenerator[None, None]:
    """Measure the event loop's lag until this is left."""
    watching = asyncio.create_task(_watch_loop())
    try:
        yield
    finally:
        watching.cancel()


async def _watch_loop() -> None:
    longest = 0.0
    for look in itertools.count():
        if look % LOOKS_PER_COUNT == 0:
            loop_tasks.set(len(asyncio.all_tasks()))
        asked = time.monotonic() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        lag = max(time.monotonic() - asked, 0.0)
        loop_lag_seconds.observe(lag)
        if lag > longest:
            longest = lag
            loop_lag_max_seconds.set(lag)


@asynccontextmanager
async def recall_watched(
    observe: Callable[[], Awaitable[None]], period_s: float = RECALL_PERIOD_S
) -> AsyncGenerator[None, None]:
    """Call `observe`, which tells each collection's recall, again and again until this is left."""
    watching = asyncio.create_task(_watch_recall(observe, period_s))
    try:
        yield
    finally:
        watching.cancel()


async def _watch_recall(observe: Callable[[], Awaitable[None]], period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            await observe()
        except GmvaluatorError as error:
            _log.warning("recall", problem=str(error))  # the index is away or being changed: calls say so themselves
        except Exception:  # noqa: BLE001 - one look less is no reason never to look again
            _log.exception("recall", problem="the collections could not be looked at; it is tried again")


def serve_metrics(address: str) -> int:
    """Answer scrapes at http://ADDRESS/metrics from a thread, until the process ends; the port.

    Raises PreconditionFailed if the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), REGISTRY)
    except OSError as error:
        raise PreconditionFailed(f"metrics cannot be served on {address}: {error.strerror}") from error
    return int(server.server_port)


class FileMetricsCollector(Collector):
    """Read at each scrape: the files are small, and others write them."""

    def __init__(self, settings: AttributorSettings) -> None:
        self._folder = settings.data
        files = {"server": settings.tls_cert, "client_ca": settings.client_ca}
        self._certificates = {use: path for use, path in files.items() if path is not None}

    def collect(self) -> Iterator[Metric]:
        yield self._expiry()
        verified = read_verification(self._folder)
        at = GaugeMetricFamily(
            "gmvaluator_ledger_verified_timestamp_seconds", "When `ledger verify --record` ended last, since 1970."
        )
        ok = GaugeMetricFamily("gmvaluator_ledger_verified_ok", "1 if it found the ledger whole, 0 if it did not.")
        if verified is not None:
            at.add_metric((), verified.verified_at)
            ok.add_metric((), float(verified.ok))
        yield at
        yield ok

    def _expiry(self) -> Metric:
        family = GaugeMetricFamily(
            "gmvaluator_certificate_expiry_timestamp_seconds",
            "When the first certificate of a PEM file of ours expires, since 1970; 0 if the file cannot be read.",
            labels=["use"],
        )
        for use, path in self._certificates.items():
            family.add_metric((use,), _expires(path))
        return family


def _expires(path: Path) -> float:
    try:
        with path.open("rb") as file:
            chain = x509.load_pem_x509_certificates(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError):
        return 0.0  # as good as expired: somebody has to look
    return min(one.not_valid_after_utc.timestamp() for one in chain)
