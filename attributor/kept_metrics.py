"""What files say when somebody scrapes: when certificates expire, and what the last check of the ledger found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from attributor.settings import AttributorSettings
from attributor.tls import MAX_FILE_BYTES
from gmvaluator.ledger.verification import read_verification


class Kept(Collector):
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
