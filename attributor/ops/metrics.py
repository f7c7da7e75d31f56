"""Prometheus metrics of the attributor, and the HTTP endpoint that exposes them.

Names end in their unit; labels have few values. This module knows none of the attributor's parts: it takes plain
values and callables, so that every other room may import it.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from attributor.ops.metrics_server import start_metrics_server
from gmvaluator.errors import GmvaluatorError, PreconditionFailed
from gmvaluator.index.schema import growth_since_verified, outgrown
from gmvaluator.ledger.verification import read_verification
from gmvaluator.ports import CollectionInfo

REGISTRY = CollectorRegistry()
"""A registry of our own: the library's global one adds collectors of its own, and tests could not start empty."""

LAG_PERIOD_S = 0.01
"""Interval between two measurements of the event loop's lag."""

MEASUREMENTS_PER_COUNT = 100
"""Measurements of the lag between two counts of the loop's tasks: counting takes time that grows with them."""

RECALL_PERIOD_S = 300.0
"""Interval between two reads of what `index verify` measured last."""

POSTED, REPLAYED, PREVIEW = "posted", "replayed", "preview"

_MILLION = 1_000_000
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_STAGES = ("lookup", "decode", "queue", "embed", "recall", "rerank", "quality", "post", "total")

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
issued_credits = Counter("gmvaluator_issued_credits", "Credits posted, unattributed ones included.", registry=REGISTRY)
unattributed_credits = Counter(
    "gmvaluator_unattributed_credits", "Credits posted to the unattributed account.", registry=REGISTRY
)
quality = Histogram(
    "gmvaluator_quality", "Quality of posted images in 0..1, higher is better.",
    buckets=[number / 10 for number in range(1, 11)], registry=REGISTRY,
)  # fmt: skip
batch_images = Histogram(
    "gmvaluator_batch_images", "Images a forward pass.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=REGISTRY
)
model_seconds = Histogram("gmvaluator_model_seconds", "Time of a forward pass.", buckets=_SECONDS, registry=REGISTRY)
loop_lag_seconds = Histogram(
    "gmvaluator_event_loop_lag_seconds", "How much later than scheduled the event loop woke up.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.05, 0.1, 0.25, 1.0),
    registry=REGISTRY,
)  # fmt: skip
loop_lag_max_seconds = Gauge(
    "gmvaluator_event_loop_lag_max_seconds", "The longest lag since the start.", registry=REGISTRY
)
dropped_log_lines = Counter(
    "gmvaluator_dropped_log_lines", "Log lines dropped because stderr was not read in time.", registry=REGISTRY
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

_log = structlog.get_logger("attributor")


def observe_refusal(error: Exception) -> None:
    """Count a call that ended in `error`."""
    refusals.labels(type(error).__name__ if isinstance(error, GmvaluatorError) else "unexpected").inc()


def observe_unkept(problem: str) -> None:
    """Count and log a thumbnail that could not be kept; credits do not depend on it."""
    unkept_images.inc()
    _log.warning("not kept", problem=problem)


def observe_batch(count: int, seconds: float) -> None:
    """Record a batch of `count` images that the models answered."""
    batch_images.observe(count)
    model_seconds.observe(seconds)


def observe_stages(timings_ms: Mapping[str, float]) -> None:
    """Record the time of each stage of a valued image. timings_ms: stage with the suffix `_ms` to milliseconds."""
    for stage in _STAGES:
        stage_seconds.labels(stage).observe(timings_ms[f"{stage}_ms"] / 1000)


def observe_credits(issued_micros: int, unattributed_micros: int, image_quality: float) -> None:
    """Record a posting's credits, and the image's quality in [0, 1]."""
    issued_credits.inc(issued_micros / _MILLION)
    unattributed_credits.inc(unattributed_micros / _MILLION)
    quality.observe(image_quality)


def observe_collection(info: CollectionInfo) -> None:
    """Expose a collection's recall, if `gmvaluator index verify` measured it, and its growth since then."""
    for name, value in (info.metadata.get("measured") or {}).items():
        # The bounds of its interval, such as recall_at_50_low, are no samples of this gauge.
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


async def measure_loop_lag() -> None:
    """Measure the event loop's lag, and count its tasks, until cancelled."""
    longest = 0.0
    for number in itertools.count():
        if number % MEASUREMENTS_PER_COUNT == 0:
            loop_tasks.set(len(asyncio.all_tasks()))
        due = time.monotonic() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        lag = max(time.monotonic() - due, 0.0)
        loop_lag_seconds.observe(lag)
        if lag > longest:
            longest = lag
            loop_lag_max_seconds.set(lag)


async def poll_collections(observe: Callable[[], Awaitable[None]], period_s: float = RECALL_PERIOD_S) -> None:
    """Call `observe`, which passes each collection to `observe_collection`, every `period_s` until cancelled.

    An error is logged and ends only the call that raised it.
    """
    while True:
        await asyncio.sleep(period_s)
        try:
            await observe()
        except GmvaluatorError as error:
            # The index is down or being changed: calls that need it fail with errors of their own.
            _log.warning("recall", problem=str(error))
        except Exception:  # noqa: BLE001 - one failed poll is no reason to stop polling
            _log.exception("recall", problem="the collections could not be read; this is tried again")


def serve_metrics(address: str) -> int:
    """Serve http://ADDRESS/metrics from a thread until the process ends; return the port.

    Raises PreconditionFailed if the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        return start_metrics_server(host.strip("[]"), int(port), REGISTRY)
    except OSError as error:
        raise PreconditionFailed(f"metrics cannot be served on {address}: {error.strerror}") from error


class RuntimeState(NamedTuple):
    """Values that are read at each scrape: two that vary, and counts since the start."""

    in_flight: int = 0
    queue_images: int = 0
    model_dropped_images: int = 0
    model_failed_images: int = 0
    model_restarts: int = 0
    decoded_images: int = 0
    undecodable_images: int = 0
    decoder_restarts: int = 0


_GAUGES = {
    "in_flight": "Calls being answered.",
    "queue_images": "Images that wait for the models.",
}
_COUNTERS = {
    "model_dropped_images": "Images whose caller had disconnected before their batch.",
    "model_failed_images": "Images that the models failed on.",
    "model_restarts": "Times the models' process was replaced.",
    "decoded_images": "Images decoded.",
    "undecodable_images": "Images refused by a decoder.",
    "decoder_restarts": "Times a decoder's process was replaced.",
}


class RuntimeCollector(Collector):
    """A Prometheus collector of a `RuntimeState`, which is read at each scrape."""

    def __init__(self, read: Callable[[], RuntimeState]) -> None:
        """read: called from the threads that serve scrapes."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        state = self._read()._asdict()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"gmvaluator_{name}", text, state[name])
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"gmvaluator_{name}", text, state[name])


class FileMetricsCollector(Collector):
    """A Prometheus collector of figures in files: expiry of certificates and the last verification of the ledger.

    The files are small and other processes write them, so they are read again each time.
    """

    def __init__(self, data: Path, certificate_expiry: Mapping[str, Callable[[], float]]) -> None:
        """data: folder that `ledger verify --record` writes to. certificate_expiry: use of a PEM file to a function
        that returns when its first certificate expires, in seconds since 1970, or 0 if it cannot be read."""
        self._data = data
        self._certificate_expiry = certificate_expiry

    def collect(self) -> Iterator[Metric]:
        yield self._expiry()
        verified = read_verification(self._data)
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
        for use, expires_at in self._certificate_expiry.items():
            family.add_metric((use,), expires_at())
        return family
