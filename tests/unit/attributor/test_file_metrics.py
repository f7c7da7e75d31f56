"""What a scrape tells of files: certificates and the last check of the ledger; and of the index, looked at again."""

import asyncio
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from attributor.ops.metrics import FileMetricsCollector, recall_watched
from attributor.settings import AttributorSettings
from gmvaluator.errors import IndexUnavailable, PreconditionFailed
from gmvaluator.ledger.results import Head, Problem, Verification
from gmvaluator.ledger.verification import FILE_NAME, read_verification, record_verification
from gmvaluator.testing.certificates import Authority

WHOLE = Verification(7, 80, Head(7, "0" * 64), None)
BROKEN = Verification(7, 80, Head(7, "0" * 64), Problem(3, None, "posting is missing"))


def told(settings: AttributorSettings, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(FileMetricsCollector(settings))
    return registry.get_sample_value(name, labels)


def test_each_certificate_says_when_it_expires(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    settings = AttributorSettings(tmp_path, tls_cert=certificate, tls_key=key, client_ca=authority.path)
    name = "gmvaluator_certificate_expiry_timestamp_seconds"
    server, client_ca = (told(settings, name, use=use) for use in ("server", "client_ca"))
    assert server is not None
    assert client_ca == pytest.approx(server, abs=60)
    certificate.write_text("spoilt", encoding="utf-8")
    assert told(settings, name, use="server") == 0
    assert told(AttributorSettings(tmp_path), name, use="server") is None


def test_the_last_check_of_the_ledger_is_told(tmp_path: Path) -> None:
    settings = AttributorSettings(tmp_path)
    assert told(settings, "gmvaluator_ledger_verified_ok") is None
    for found, ok in ((WHOLE, 1.0), (BROKEN, 0.0), (WHOLE, 1.0), (None, 0.0)):
        record_verification(tmp_path, found)
        assert told(settings, "gmvaluator_ledger_verified_ok") == ok
    at = told(settings, "gmvaluator_ledger_verified_timestamp_seconds")
    assert at == json.loads((tmp_path / FILE_NAME).read_text(encoding="utf-8"))["verified_at"]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_what_cannot_be_read_or_kept_is_said(tmp_path: Path) -> None:
    for text in ("", "[]", '{"ok": true}', '{"verified_at": "soon", "ok": true, "postings": 1}'):
        (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
        assert read_verification(tmp_path) is None
    with pytest.raises(PreconditionFailed, match="absent"):
        record_verification(tmp_path / "absent", WHOLE)


async def test_recall_is_looked_at_again_and_an_index_that_is_away_ends_nothing() -> None:
    looks = 0
    enough = asyncio.Event()

    async def observe() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            enough.set()
        raise IndexUnavailable("away")

    async with recall_watched(observe, period_s=0.001):
        await asyncio.wait_for(enough.wait(), 30)
