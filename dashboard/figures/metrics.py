"""The attributor's metrics for the operations page, and the dashboard's own metrics for Prometheus."""

from __future__ import annotations

import resource
import time
import urllib.request
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from dashboard.figures.live import Live
from gmvaluator.errors import InvalidInput, Unavailable

TIMEOUT_S = 2.0
"""Seconds to wait for the attributor's metrics."""

MAX_BYTES = 2 * 1024 * 1024
"""Maximum number of bytes read of the attributor's metrics."""

STAGES = ("lookup", "decode", "queue", "embed", "recall", "rerank", "quality", "post", "total")
QUANTILES = (0.5, 0.99)

Samples = dict[str, list[tuple[dict[str, str], float]]]
"""Samples, (labels, value), by the name of their metric."""


def checked_url(url: str) -> str:
    """Return a URL of metrics, with the path `/metrics` if it has none. Raises InvalidInput."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(f"--metrics {url[:60]!r} is refused: give http://HOST:PORT/metrics")
    return parts.geturl() if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/metrics"


def scrape(url: str) -> Samples:
    """Return the samples at a URL that the operator configured. Raises Unavailable."""
    from prometheus_client.parser import text_string_to_metric_families

    # No proxy: the metrics are of a machine nearby, and a proxy from the environment would not reach it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            text = response.read(MAX_BYTES).decode("utf-8")
        samples: Samples = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name].append((sample.labels, sample.value))
    except (OSError, ValueError) as error:
        raise Unavailable(f"the attributor's metrics at {url} cannot be read ({error})") from error
    return samples


def operations(samples: Samples) -> dict[str, Any]:
    """Return the figures of the page: counts, latency by stage in ms, refusals by reason, recall, quality."""
    images = {labels["how"]: value for labels, value in samples.get("gmvaluator_images_total", [])}
    refusals = {labels["reason"]: value for labels, value in samples.get("gmvaluator_refusals_total", [])}
    return {
        "images": images,
        "posted": images.get("posted", 0.0),
        "in_flight": _gauge_value(samples, "gmvaluator_in_flight"),
        "waiting": _gauge_value(samples, "gmvaluator_queue_images"),
        "refusals": [{"reason": reason, "count": int(count)} for reason, count in sorted(refusals.items()) if count],
        "refused": int(sum(refusals.values())),
        "stages": [_stage(samples, stage) for stage in STAGES],
        "quality": _histogram(samples, "gmvaluator_quality"),
        "recall": [
            {"collection": labels["collection"], "recall": f"{value:.4f}"}
            for labels, value in samples.get("gmvaluator_index_recall", [])
        ],
    }


def _gauge_value(samples: Samples, name: str) -> float | None:
    values = samples.get(name)
    return values[0][1] if values else None


def _stage(samples: Samples, stage: str) -> dict[str, Any]:
    """Return the count, mean and quantiles of a stage's latency, in ms; None where no image was counted."""
    buckets = _cumulative(samples, "gmvaluator_stage_seconds", {"stage": stage})
    count = buckets[-1][1] if buckets else 0.0
    sums = [value for labels, value in samples.get("gmvaluator_stage_seconds_sum", []) if labels.get("stage") == stage]
    if not count:
        return {"stage": stage, "count": 0, "mean_ms": None, "p50_ms": None, "p99_ms": None}
    p50_ms, p99_ms = (_quantile(buckets, count, part) for part in QUANTILES)
    mean_ms = round(1000 * sums[0] / count, 2) if sums else None
    return {"stage": stage, "count": int(count), "mean_ms": mean_ms, "p50_ms": p50_ms, "p99_ms": p99_ms}


def _quantile(buckets: list[tuple[float, float]], count: float, part: float) -> float | None:
    """Return a quantile in ms, interpolated within its bucket as Prometheus does."""
    below, so_far = 0.0, 0.0
    for bound, cumulative in buckets:
        if cumulative >= part * count:
            if bound == float("inf"):
                return round(1000 * below, 1)
            inside = (part * count - so_far) / (cumulative - so_far) if cumulative > so_far else 1.0
            return round(1000 * (below + (bound - below) * inside), 1)
        below, so_far = bound, cumulative
    return None


def _cumulative(samples: Samples, name: str, selector: dict[str, str]) -> list[tuple[float, float]]:
    """Return (upper bound, cumulative count) of a histogram's buckets, in order."""
    return sorted(
        (float(labels["le"]), value)
        for labels, value in samples.get(f"{name}_bucket", [])
        if selector.items() <= labels.items()
    )


def _histogram(samples: Samples, name: str) -> list[list[Any]]:
    """Return [label, count] of each finite bucket."""
    before, low, buckets = 0.0, 0.0, []
    for bound, cumulative in _cumulative(samples, name, {}):
        if bound != float("inf"):
            buckets.append([f"{low:.1f}–{bound:.1f}", int(cumulative - before)])
            before, low = cumulative, bound
    return buckets


def exposition(live: Live) -> bytes:
    """Return the dashboard's metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    _gauge(registry, "gmvaluator_dashboard_streams", "Browsers that are being kept live.", live.streams)
    _gauge(registry, "gmvaluator_dashboard_ledger_sequence", "Newest posting that pages show.", live.sequence)
    _gauge(registry, "gmvaluator_dashboard_failing", "1 while the ledger cannot be read.", float(live.failing))
    _gauge(registry, "gmvaluator_dashboard_state_age_seconds", "Age of what pages show.", live.age_s(time.monotonic()))
    registry.register(_Counters(live))
    return generate_latest(registry)


class _Counters(Collector):
    """The dashboard's counters, read from `Live` when Prometheus scrapes them."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> list[Metric]:
        """Implement `Collector`."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return [
            CounterMetricFamily("gmvaluator_dashboard_updates", "States read from the ledger.", self._live.updates),
            CounterMetricFamily("gmvaluator_dashboard_messages", "Messages sent to browsers.", self._live.sent),
            CounterMetricFamily("gmvaluator_dashboard_cpu_seconds", "Processor time.", used.ru_utime + used.ru_stime),
        ]


def _gauge(registry: CollectorRegistry, name: str, text: str, value: float) -> None:
    Gauge(name, text, registry=registry).set(value)
