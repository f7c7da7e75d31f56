"""The metrics that the programs expose, for tests of what asks for them."""

import re
import tempfile
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from attributor.ops import metrics
from attributor.ops.metrics import RuntimeCollector, RuntimeState
from attributor.server import file_metrics
from attributor.settings import AttributorSettings
from dashboard.figures.live import Live
from dashboard.figures.metrics import exposition
from gmvaluator.ledger.results import Head, Verification
from gmvaluator.ledger.verification import record_verification
from gmvaluator.testing.certificates import Authority

NAME = re.compile(r"\bgmvaluator_\w+")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def exposed() -> set[str]:
    """Names of samples, whether or not there are any yet."""
    live = Live(dict, lambda: 0, 0.25)
    texts = [generate_latest(metrics.REGISTRY).decode(), exposition(live).decode(), _collected()]
    families = [family for text in texts for family in text_string_to_metric_families(text)]
    return {family.name + suffix for family in families for suffix in _SUFFIXES.get(family.type, ())}


def _collected() -> str:
    """Return what the collectors expose that a running attributor registers."""
    registry = CollectorRegistry()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_verification(folder, Verification(0, 0, Head(0, "0" * 64), None))
        certificate, key = Authority(folder).issue("server")
        registry.register(file_metrics(AttributorSettings(folder, tls_cert=certificate, tls_key=key)))
        registry.register(RuntimeCollector(RuntimeState))
        return generate_latest(registry).decode()
