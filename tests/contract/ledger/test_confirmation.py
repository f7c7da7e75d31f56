"""Commands whose postings cannot be taken back: what they show before, what they ask, and what they then post."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gmvaluator.catalogue.store import KEY_FOLDER, open_catalogue
from gmvaluator.commands import confirmation
from gmvaluator.commands.main import gmvaluator as program
from gmvaluator.errors import InvalidInput, MissingData, NotFound
from gmvaluator.ledger.results import Head
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from tests.support.scenes import attribute, import_rights, owner_named, record, sha256_of, work

AUGUST, SEPTEMBER = datetime(2026, 8, 10, tzinfo=UTC), datetime(2026, 9, 10, tzinfo=UTC)
TERMS = ("--currency", "EUR", "--rate", "0.25")
CLOSE = ("close", "2026-08", *TERMS)


@pytest.fixture
def place(tmp_path: Path) -> DataLocation:
    """Data in which Ada and Ben earned in August and Ada in September; the owner of work 3 became known since."""
    place = DataLocation(tmp_path / "data")
    record(place, work(1, "ada"), work(2, "ben"), work(3, None))
    attribute(place, "a1", [1, 2], AUGUST)
    attribute(place, "a2", [1, 3], AUGUST)
    attribute(place, "s1", [1], SEPTEMBER)
    return place


def ledger(place: DataLocation, *words: str, answer: str | None = None) -> Result:
    """Run `gmvaluator ledger WORDS`; errors of the product are raised."""
    command = ["ledger", *words, "--data", str(place.folder)]
    return CliRunner().invoke(program, command, input=answer, catch_exceptions=False)


def plain(place: DataLocation, *words: str) -> Any:
    """Run `gmvaluator ledger WORDS --json`, which has to succeed, and return its data."""
    result = ledger(place, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def head(place: DataLocation) -> Head:
    with open_ledger(place) as book:
        return book.head()


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmation, "_on_terminal", lambda: True)


def prepare(place: DataLocation, command: str, tmp_path: Path) -> Sequence[str]:
    """Bring the ledger to where a command has something to post, and return the command."""
    if command == "release":
        import_rights(place, tmp_path, f"sha256,owner_id,share_ppm\n{sha256_of(3)},ben,1000000\n")
        return ("release",)
    if command == "dispute":
        plain(place, "dispute", "open", "case-1", "--generation", "a1", "--reason", "mine")
        return ("dispute", "decide", "case-1", "--reject", "--reason", "nothing was shown")
    if command == "payout":
        plain(place, *CLOSE)
        return ("payout", "2026-08")
    return {
        "close": CLOSE,
        "reverse": ("reverse", "a1", "--reason", "a test"),
        "reattribute": ("reattribute", "a1", "--policy", "calibrated@2", "--reason", "agreed"),
    }[command]


COMMANDS = pytest.mark.parametrize("command", ["close", "payout", "release", "dispute", "reverse", "reattribute"])


@COMMANDS
def test_a_dry_run_shows_what_would_be_posted_and_posts_nothing(
    place: DataLocation, tmp_path: Path, command: str
) -> None:
    words = prepare(place, command, tmp_path)
    before = head(place)
    shown = plain(place, *words, "--dry-run")
    assert (shown["dry_run"], head(place)) == (True, before)
    assert ledger(place, *words, "--dry-run", "--yes").exit_code == 0
    assert head(place) == before
    posted = plain(place, *words)
    assert head(place).sequence > before.sequence
    same = {"close": ("payees", "payable_minor", "balances"), "release": ("released", "moved_micros")}
    for name in same.get(command, ()):
        assert posted[name] == shown[name]
    if command in ("reverse", "reattribute"):
        assert (posted["entries"], shown["hash"]) == (shown["entries"], None)
    if command == "payout":
        assert [line["status"] for line in shown["payouts"]] == ["due", "due"]
        assert [line["amount"] for line in posted["payouts"]] == [line["amount"] for line in shown["payouts"]]


@COMMANDS
@pytest.mark.usefixtures("on_terminal")
def test_on_a_terminal_it_is_asked_first(place: DataLocation, tmp_path: Path, command: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confirmation, "_on_terminal", lambda: False)
        words = prepare(place, command, tmp_path)
    before = head(place)
    refused = ledger(place, *words, answer="n\n")
    assert (refused.exit_code, head(place)) == (1, before)
    assert "this would post" in refused.stderr
    assert "Go on? [y/N]" in refused.stderr
    assert "nothing was posted" in refused.stderr
    agreed = ledger(place, *words, answer="y\n")
    assert (agreed.exit_code, head(place).sequence > before.sequence) == (0, True)


@pytest.mark.usefixtures("on_terminal")
def test_the_summary_names_money_owners_and_credits(place: DataLocation) -> None:
    closing = ledger(place, *CLOSE, answer="y\n").stderr
    assert "closing 2026-08 makes 0.37 EUR payable to 2 owners (rate 0.25 EUR)" in closing
    paying = ledger(place, "payout", "2026-08", answer="n\n").stderr
    assert "0.37 EUR to 2 owners" in paying
    assert "this would post 2 payout" in paying
    assert "Ada" in paying


@pytest.mark.usefixtures("on_terminal")
def test_nothing_is_asked_with_yes_or_if_there_is_nothing_to_post(place: DataLocation) -> None:
    assert "Go on?" not in ledger(place, *CLOSE, "--yes").output
    assert "Go on?" not in ledger(place, *CLOSE).output
    assert ledger(place, "payout", "2026-08", "--yes").stdout.endswith("2 payouts posted, 0 were posted before\n")
    again = ledger(place, "payout", "2026-08")
    assert (again.exit_code, "Go on?" in again.output) == (0, False)
    assert again.stdout == "0 payouts posted, 2 were posted before\n"


def test_a_month_that_cannot_be_closed_is_not_asked_about(place: DataLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(place, "dispute", "open", "case-1", "--generation", "a1", "--reason", "mine")
    monkeypatch.setattr(confirmation, "_on_terminal", lambda: True)
    refused = ledger(place, *CLOSE)
    assert (refused.exit_code, "NO   disputes" in refused.stdout, "Go on?" in refused.output) == (1, True, False)
    carried = ledger(place, *CLOSE, "--carry-disputes", "--dry-run")
    assert carried.exit_code == 0


def test_a_closing_that_was_undone_leaves_no_key(place: DataLocation) -> None:
    keys = sorted((place.folder / KEY_FOLDER).rglob("*"))
    ledger(place, *CLOSE, "--dry-run")
    assert sorted((place.folder / KEY_FOLDER).rglob("*")) == keys


@COMMANDS
def test_a_wrong_folder_is_refused_and_not_filled(tmp_path: Path, command: str) -> None:
    words = {
        "release": ("release",),
        "payout": ("payout", "2026-08"),
        "dispute": ("dispute", "decide", "c", "--reject", "--reason", "r"),
    }
    nowhere = DataLocation(tmp_path / "nowhere")
    with pytest.raises(MissingData):
        ledger(nowhere, *words.get(command, ()) or prepare(nowhere, command, tmp_path))
    assert not nowhere.folder.exists()


def test_a_payout_gets_the_banks_reference_later(place: DataLocation) -> None:
    plain(place, *CLOSE)
    with pytest.raises(NotFound, match="no payout of 2026-08 was posted"):
        plain(place, "payout-reference", "2026-08", "SEPA 17")
    plain(place, "payout", "2026-08", "--reason", "transfer ordered")
    ada, before = str(owner_named(place, "ada")), head(place)
    with pytest.raises(InvalidInput, match="the reference"):
        plain(place, "payout-reference", "2026-08", " ")
    assert plain(place, "payout-reference", "2026-08", "SEPA 17")["added"] == 2
    assert plain(place, "payout-reference", "2026-08", "SEPA 17")["added"] == 0
    assert plain(place, "payout-reference", "2026-08", "SEPA 18", "--owner", ada) == {
        "period": "2026-08", "payouts": 1, "added": 1,
    }  # fmt: skip
    assert head(place).sequence == before.sequence + 3

    (paid,) = plain(place, "statement", ada, "2026-09")["payouts"]
    assert (paid["reason"], paid["reference"]) == ("transfer ordered", "SEPA 18")
    for form in ("csv", "html"):
        assert (
            "transfer ordered (reference SEPA 18)"
            in ledger(place, "statement", ada, "2026-09", "--format", form).stdout
        )
    explained = plain(place, "explain", f"payout/2026-08/{ada}")
    assert [decision["reason"] for decision in explained["decisions"]] == ["SEPA 17", "SEPA 18"]
    assert plain(place, "verify")["ok"]
    assert plain(place, "replay")["different"] == []


def test_a_closed_statement_shows_no_later_reference(place: DataLocation) -> None:
    plain(place, *CLOSE)
    plain(place, "payout", "2026-08")
    ada = str(owner_named(place, "ada"))
    plain(place, "close", "2026-09", *TERMS)
    closed = ledger(place, "statement", ada, "2026-09", "--format", "json").stdout
    plain(place, "payout-reference", "2026-08", "SEPA 17")
    assert ledger(place, "statement", ada, "2026-09", "--format", "json").stdout == closed


def rights_of_work_3(place: DataLocation, tmp_path: Path, *words: str, answer: str | None = None) -> Result:
    """Import that work 3 is Cleo's, who is not known yet, and release; errors of the product are raised."""
    file = tmp_path / "rights.csv"
    file.write_text(f"sha256,owner_id,owner_name,share_ppm\n{sha256_of(3)},cleo,Cleo,1000000\n")
    command = ["rights", "import", str(file), "--release", *words, "--data", str(place.folder)]
    return CliRunner().invoke(program, command, input=answer, catch_exceptions=False)


def test_dry_run_of_an_import_shows_its_release_and_changes_nothing(place: DataLocation, tmp_path: Path) -> None:
    keys = sorted((place.folder / KEY_FOLDER).iterdir())
    before = head(place)
    shown = json.loads(rights_of_work_3(place, tmp_path, "--dry-run", "--json").stdout)
    assert (shown["dry_run"], shown["added"], head(place)) == (True, 1, before)
    assert sorted((place.folder / KEY_FOLDER).iterdir()) == keys
    with open_catalogue(place) as catalogue:
        assert catalogue.counts().owners == 2
    done = json.loads(rights_of_work_3(place, tmp_path, "--json").stdout)
    assert (done["dry_run"], done["added"], done["released"]) == (False, 1, shown["released"])
    assert done["released"]["generations"] == 1


@pytest.mark.usefixtures("on_terminal")
def test_release_of_an_import_is_asked_first(place: DataLocation, tmp_path: Path) -> None:
    before = head(place)
    refused = rights_of_work_3(place, tmp_path, answer="n\n")
    assert (refused.exit_code, "Postings cannot be taken back" in refused.stderr, head(place)) == (1, True, before)
    assert "1 rows = 1 added" in refused.stdout
    assert "Cleo" in refused.stderr
    done = rights_of_work_3(place, tmp_path, "--yes")
    assert (done.exit_code, "Go on?" in done.stderr, head(place).sequence) == (0, False, before.sequence + 1)


def test_import_releases_nothing_beside_a_lost_ledger(place: DataLocation, tmp_path: Path) -> None:
    (place.folder / "ledger.sqlite").unlink()
    with pytest.raises(MissingData, match="is gone"):
        rights_of_work_3(place, tmp_path)
    with open_catalogue(place) as catalogue:
        assert catalogue.counts().owners == 2
