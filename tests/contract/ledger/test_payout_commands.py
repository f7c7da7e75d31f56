"""The ledger's and the catalogue's commands in a finance workflow, from an import of rights to payouts and erasure."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gmvaluator.auth.signing import Signed
from gmvaluator.commands.main import gmvaluator as program
from gmvaluator.errors import Conflict, InvalidInput
from gmvaluator.storage.database import DataLocation
from tests.support.scenes import attribute, owner_named, record, sha256_of, work

AUGUST, SEPTEMBER = datetime(2026, 8, 10, tzinfo=UTC), datetime(2026, 9, 10, tzinfo=UTC)
TERMS = ("--currency", "EUR", "--rate", "0.25", "--pool", "100", "--threshold", "0.5")


def run(*words: object) -> Result:
    """Run `gmvaluator WORDS` in this process; errors of the product are raised."""
    return CliRunner().invoke(program, [str(word) for word in words], catch_exceptions=False)


def gmvaluator(*words: object) -> Any:
    """Run `gmvaluator WORDS --json`, which has to succeed, and return its data."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data with Ada's work 1, credited in August and September, and work 2 without a known owner."""
    place = DataLocation(tmp_path / "data")
    record(place, work(1, "ada"), work(2, None))
    attribute(place, "a1", [1, 2], AUGUST)
    attribute(place, "a2", [1, 2], AUGUST)
    attribute(place, "s1", [1], SEPTEMBER)
    return place.folder


def test_import_release_dispute_close_and_pay(data: Path, tmp_path: Path) -> None:
    here = ("--data", data)
    rights = tmp_path / "rights.csv"
    rights.write_text(
        "sha256,owner_id,owner_name,share_ppm,valid_to\n"
        f"{sha256_of(2)},ben,Ben,1000000,\n{sha256_of(1)},ada,Ada,999999,\nnonsense,x,,1,\n"
    )
    imported = gmvaluator("rights", "import", rights, "--release", *here)
    assert (imported["rows"], imported["added"], imported["rejected"]) == (3, 1, 2)
    assert imported["released"] == {"generations": 2, "moved_micros": 999_500}
    assert gmvaluator("ledger", "release", *here)["released"] == 0
    assert gmvaluator("rights", "show", "work-2", *here)["paid"][0]["display_name"] == "Ben"

    ada, ben = (str(owner_named(DataLocation(data), name)) for name in ("ada", "ben"))
    opened = gmvaluator(
        "ledger", "dispute", "open", "case-1", "--generation", "a2", "--claimant", ben, "--reason", "mine", *here
    )
    assert opened["held_micros"] == 500_250
    refused = run("ledger", "close", "2026-08", *TERMS, *here)
    assert (refused.exit_code, "NO   disputes" in refused.stdout) == (1, True)
    half = ("--award", f"{ada}=500000", "--award", f"{ben}=500000")
    gmvaluator("ledger", "dispute", "decide", "case-1", *half, "--reason", "shared", *here)
    assert gmvaluator("ledger", "dispute", "list", "--open", *here) == {"disputes": []}

    closed = gmvaluator("ledger", "close", "2026-08", *TERMS, *here)
    # Credits released or awarded to Ben belong to the current month, and Ada no longer has what was awarded to him.
    assert (closed["payees"], closed["payable_minor"]) == (1, 18)
    again = gmvaluator("ledger", "close", "2026-08", *TERMS, *here)
    assert again["hash"] == closed["hash"]
    with pytest.raises(Conflict, match="currency"):
        run("ledger", "close", "2026-08", "--currency", "USD", "--rate", "1", *here)

    paid = run("ledger", "payout", "2026-08", "--json", *here)
    assert (paid.exit_code, json.loads(paid.stdout)["payouts"][0]["status"]) == (0, "posted")
    statement = gmvaluator("ledger", "statement", ada, "2026-08", *here)
    assert (statement["status"], statement["payable"]) == ("closed", "0.18 EUR")
    gmvaluator("ledger", "statement", "ALL", "2026-08", "--out", tmp_path / "statements", *here)
    written = {path.suffix for path in (tmp_path / "statements").iterdir()}
    assert written == {".csv", ".json", ".html"}
    text = (tmp_path / "statements" / f"2026-08-{ada}.csv").read_text()
    assert next(csv.DictReader(io.StringIO(text)))["section"] == "opening"
    page = run("ledger", "statement", ada, "2026-08", "--format", "html", *here).stdout
    assert page == (tmp_path / "statements" / f"2026-08-{ada}.html").read_text()


def test_corrections_are_explained(data: Path) -> None:
    here = ("--data", data)
    compared = gmvaluator("ledger", "compare", "paper@1", *here)
    assert (compared["generations"], compared["changed"]) == (3, 0)
    reversed_ = gmvaluator("ledger", "reverse", "a1", "--reason", "a test image", *here)
    assert (reversed_["kind"], reversed_["about_sequence"], reversed_["replay_equal"]) == ("reversal", 1, True)
    again = gmvaluator("ledger", "reattribute", "a1", "--policy", "paper@1", "--reason", "it was none", *here)
    assert again["issued_micros"] == 1_000_000
    explained = gmvaluator("ledger", "explain", "a1", *here)
    assert [decision["kind"] for decision in explained["decisions"]] == ["reversal", "reattribution"]
    assert gmvaluator("ledger", "explain", "reversal/1/1", *here)["reason"] == "a test image"
    shown = run("ledger", "explain", "a1", *here).stdout
    assert "reason: a test image" in shown
    replayed = gmvaluator("ledger", "replay", *here)
    assert (replayed["replayed"], replayed["different"]) == (5, [])


def test_verify_checks_an_external_checkpoint_and_the_public_key(data: Path, tmp_path: Path) -> None:
    here = ("--data", data)
    gmvaluator("ledger", "close", "2026-08", *TERMS, *here)
    key = gmvaluator("ledger", "public-key", *here)["public_key"]
    kept = tmp_path / "checkpoint.json"
    assert run("ledger", "checkpoint", "2026-08", "--out", kept, *here).exit_code == 0
    words = ("ledger", "verify", "--public-key", key, "--checkpoint", kept, *here)
    assert gmvaluator(*words)["ok"]
    Signed.from_dict(json.loads(kept.read_text()))
    saved = kept.read_text()
    kept.write_text(f"\ufeff{saved}\r\n", encoding="utf-8")
    assert gmvaluator(*words)["ok"]
    kept.write_text(saved, encoding="utf-16")
    with pytest.raises(InvalidInput, match="UTF-16"):
        run(*words)
    kept.write_text("[" * 100_000)
    with pytest.raises(InvalidInput, match="is no checkpoint"):
        run(*words)
    kept.write_text(saved)
    head = gmvaluator("ledger", "totals", *here)["head"]
    named = f"\ufeff{head['sequence']}:{head['hash'][:12]}\r\n"
    assert gmvaluator("ledger", "verify", "--head", named, *here)["ok"]
    kept.write_text(kept.read_text().replace("2026-08", "2026-07"))
    wrong = run(*words)
    assert (wrong.exit_code, "not signed by the operator's key" in wrong.stdout) == (1, True)
    kept.write_text("{}")
    with pytest.raises(InvalidInput, match="no signed statement"):
        run(*words)


def test_backups_export_and_erasure(data: Path, tmp_path: Path) -> None:
    here = ("--data", data)
    assert gmvaluator("ledger", "backup", tmp_path / "ledger.sqlite", *here)["head"]["sequence"] == 3
    with pytest.raises(Conflict, match="never overwrites"):
        run("ledger", "backup", tmp_path / "ledger.sqlite", *here)
    gmvaluator("rights", "backup", tmp_path / "catalogue.sqlite", *here)
    exported = gmvaluator("ledger", "export", "--out", tmp_path / "parquet", *here)
    assert exported["rows"]["postings"] == 3
    before = gmvaluator("ledger", "totals", *here)
    assert run("rights", "forget", "ada", *here).exit_code != 0
    receipt = gmvaluator("rights", "forget", "ada", "--yes", *here)
    assert receipt["ledger"]["hash"] == before["head"]["hash"]
    assert Signed.from_dict(receipt["receipt"]).genuine(gmvaluator("ledger", "public-key", *here)["public_key"])
    after = gmvaluator("ledger", "totals", *here)
    assert {**after, "owners": []} == {**before, "owners": []}
    assert {owner["display_name"] for owner in after["owners"]} == {"(forgotten)"}
    assert gmvaluator("ledger", "verify", *here)["ok"]
