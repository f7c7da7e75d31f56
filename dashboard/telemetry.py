"""The dashboard's own metrics, for Prometheus."""

from __future__ import annotations

import resource
import time

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from dashboard.live import Live


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
