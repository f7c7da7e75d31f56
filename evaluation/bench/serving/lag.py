"""How late the event loop woke up, over all phases of a measurement."""

from __future__ import annotations

import re

from evaluation.bench.serving.places import Running

_BUCKET = re.compile(r'gmvaluator_event_loop_lag_seconds_bucket\{le="([^"]+)"\}')


class Lags:
    """Adds up the histograms of the attributors that were measured; each samples its loop 100 times a second."""

    def __init__(self) -> None:
        self._cumulative: dict[float, float] = {}
        self._max_s = 0.0

    def add(self, running: Running) -> None:
        """Take an attributor's histogram, at the end of its phase."""
        metrics = running.metrics()
        for name, value in metrics.items():
            if (match := _BUCKET.fullmatch(name)) is not None:
                limit = float(match[1])
                self._cumulative[limit] = self._cumulative.get(limit, 0.0) + value
        self._max_s = max(self._max_s, metrics["gmvaluator_event_loop_lag_max_seconds"])

    def figures(self) -> dict[str, float]:
        """loop_lag_p99_ms, at the upper limit of its bucket, and loop_lag_max_ms; nothing if nothing was added."""
        if not self._cumulative:
            return {}
        wanted = 0.99 * max(self._cumulative.values())
        limit_s = min(limit for limit, count in self._cumulative.items() if count >= wanted)
        return {"loop_lag_p99_ms": min(limit_s, self._max_s) * 1000, "loop_lag_max_ms": self._max_s * 1000}
