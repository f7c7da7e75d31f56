"""The attributor's own metrics, as the operations page shows them.

The dashboard's own metrics, for Prometheus.
"""

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
MAX_BYTES = 2 * 1024 * 1024
STAGES = ("lookup", "decode", "queue", "embed", "recall", "rerank", "quality", "post", "total")
QUANTILES = (0.5, 0.99)

Samples = dict[str, list[tuple[dict[str, str], float]]]
"""Name to (labels, value)."""


def checked_url(url: str) -> str:
    """An address of metrics, `/metrics` added where there is no path. Raises InvalidInput."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(f"--metrics {url[:60]!r} is refused: give http://HOST:PORT/metrics")
    return parts.geturl() if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/metrics"


def scrape(url: str) -> Samples:
    """The samples at an address that the operator gave. Raises Unavailable."""
    from prometheus_client.parser import text_string_to_metric_families

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            text = answer.read(MAX_BYTES).decode("utf-8")
        found: Samples = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name].append((sample.labels, sample.value))
    except (OSError, ValueError) as error:
        raise Unavailable(f"the attributor's metrics at {url} cannot be read ({error})") from error
    return found


def operations(samples: Samples) -> dict[str, Any]:
    """What the page shows: counts, latency by stage in ms, refusals by reason, recall, quality."""
    images = {labels["how"]: value for labels, value in samples.get("gmvaluator_images_total", [])}
    refusals = {labels["reason"]: value for labels, value in samples.get("gmvaluator_refusals_total", [])}
    return {
        "images": images,
        "posted": images.get("posted", 0.0),
        "in_flight": _one(samples, "gmvaluator_in_flight"),
        "waiting": _one(samples, "gmvaluator_queue_images"),
        "refusals": [{"reason": reason, "count": int(count)} for reason, count in sorted(refusals.items()) if count],
        "refused": int(sum(refusals.values())),
        "stages": [_stage(samples, stage) for stage in STAGES],
        "quality": _histogram(samples, "gmvaluator_quality", {}),
        "recall": [
            {"collection": labels["collection"], "recall": f"{value:.4f}"}
            for labels, value in samples.get("gmvaluator_index_recall", [])
        ],
    }


def _one(samples: Samples, name: str) -> float | None:
    values = samples.get(name)
    return values[0][1] if values else None


def _stage(samples: Samples, stage: str) -> dict[str, Any]:
    """Quantiles by the buckets: the upper bound of the bucket in which each lies."""
    buckets = _cumulative(samples, "gmvaluator_stage_seconds", {"stage": stage})
    count = buckets[-1][1] if buckets else 0.0
    sums = [value for labels, value in samples.get("gmvaluator_stage_seconds_sum", []) if labels.get("stage") == stage]
    found: dict[str, Any] = {"stage": stage, "count": int(count), "mean_ms": None, "p50_ms": None, "p99_ms": None}
    if count:
        found["mean_ms"] = round(1000 * sums[0] / count, 2) if sums else None
        found["p50_ms"], found["p99_ms"] = (_quantile(buckets, count, part) for part in QUANTILES)
    return found


def _quantile(buckets: list[tuple[float, float]], count: float, part: float) -> float | None:
    """Between the bounds of its bucket in proportion, as Prometheus does; ms."""
    below, so_far = 0.0, 0.0
    for bound, cumulative in buckets:
        if cumulative >= part * count:
            if bound == float("inf"):
                return round(1000 * below, 1)
            inside = (part * count - so_far) / (cumulative - so_far) if cumulative > so_far else 1.0
            return round(1000 * (below + (bound - below) * inside), 1)
        below, so_far = bound, cumulative
    return None


def _cumulative(samples: Samples, name: str, wanted: dict[str, str]) -> list[tuple[float, float]]:
    return sorted(
        (float(labels["le"]), value)
        for labels, value in samples.get(f"{name}_bucket", [])
        if wanted.items() <= labels.items()
    )


def _histogram(samples: Samples, name: str, wanted: dict[str, str]) -> list[list[Any]]:
    """[label, count] of each bucket."""
    before, low, found = 0.0, 0.0, []
    for bound, cumulative in _cumulative(samples, name, wanted):
        if bound != float("inf"):
            found.append([f"{low:.1f}–{bound:.1f}", int(cumulative - before)])
            before, low = cumulative, bound
    return found


def exposition(live: Live) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    _gauge(registry, "gmvaluator_dashboard_streams", "Browsers that are being kept live.", live.streams)
    _gauge(registry, "gmvaluator_dashboard_ledger_sequence", "Newest posting that pages show.", live.sequence)
    _gauge(registry, "gmvaluator_dashboard_failing", "1 while the ledger cannot be read.", float(live.failing))
    _gauge(registry, "gmvaluator_dashboard_state_age_seconds", "Age of what pages show.", live.age_s(time.monotonic()))
    registry.register(_Counters(live))
    return generate_latest(registry)


class _Counters(Collector):
    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> list[Metric]:
        """What only grows."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return [
            CounterMetricFamily("gmvaluator_dashboard_updates", "States read from the ledger.", self._live.updates),
            CounterMetricFamily("gmvaluator_dashboard_messages", "Messages sent to browsers.", self._live.sent),
            CounterMetricFamily("gmvaluator_dashboard_cpu_seconds", "Processor time.", used.ru_utime + used.ru_stime),
        ]


def _gauge(registry: CollectorRegistry, name: str, text: str, value: float) -> None:
    Gauge(name, text, registry=registry).set(value)
