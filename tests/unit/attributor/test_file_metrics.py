"""Metrics that are read from files at each scrape: certificates and the last verification of the ledger."""

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from attributor.server import file_metrics
from attributor.settings import AttributorSettings
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ledger.results import Head, Problem, Verification
from gmvaluator.ledger.verification import OUTCOME_FILE_NAME, read_verification, record_verification
from gmvaluator.testing.certificates import Authority

WHOLE = Verification(7, 80, Head(7, "0" * 64), None)
BROKEN = Verification(7, 80, Head(7, "0" * 64), Problem(3, None, "posting is missing"))


def scraped(settings: AttributorSettings, name: str, **labels: str) -> float | None:
    """Return the value of a sample, or None if there is none."""
    registry = CollectorRegistry()
    registry.register(file_metrics(settings))
    return registry.get_sample_value(name, labels)


def test_the_expiry_of_each_certificate_is_exposed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    settings = AttributorSettings(tmp_path, tls_cert=certificate, tls_key=key, client_ca=authority.path)
    name = "gmvaluator_certificate_expiry_timestamp_seconds"
    server, client_ca = (scraped(settings, name, use=use) for use in ("server", "client_ca"))
    assert server is not None
    assert client_ca == pytest.approx(server, abs=60)
    certificate.write_text("damaged", encoding="utf-8")
    assert scraped(settings, name, use="server") == 0
    assert scraped(AttributorSettings(tmp_path), name, use="server") is None


def test_the_last_verification_of_the_ledger_is_exposed(tmp_path: Path) -> None:
    settings = AttributorSettings(tmp_path)
    assert scraped(settings, "gmvaluator_ledger_verified_ok") is None
    for verification, ok in ((WHOLE, 1.0), (BROKEN, 0.0), (WHOLE, 1.0), (None, 0.0)):
        record_verification(tmp_path, verification)
        assert scraped(settings, "gmvaluator_ledger_verified_ok") == ok
    at = scraped(settings, "gmvaluator_ledger_verified_timestamp_seconds")
    assert at == json.loads((tmp_path / OUTCOME_FILE_NAME).read_text(encoding="utf-8"))["verified_at"]
    assert [path.name for path in tmp_path.iterdir()] == [OUTCOME_FILE_NAME]


def test_unreadable_and_unwritable_verifications(tmp_path: Path) -> None:
    for text in ("", "[]", '{"ok": true}', '{"verified_at": "soon", "ok": true, "postings": 1}'):
        (tmp_path / OUTCOME_FILE_NAME).write_text(text, encoding="utf-8")
        assert read_verification(tmp_path) is None
    with pytest.raises(PreconditionFailed, match="absent"):
        record_verification(tmp_path / "absent", WHOLE)
