"""Closing and paying in currencies with other minor units than cents, from the command line."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gmvaluator.auth.signing import Signer
from gmvaluator.catalogue.store import KEY_FOLDER
from gmvaluator.commands.main import gmvaluator as program
from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.calendar import Period
from gmvaluator.ledger.payouts.closing import close
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.store import decision_time, open_ledger
from gmvaluator.storage.database import DataLocation
from tests.support.scenes import attribute, owner_named, record, work

AUGUST = datetime(2026, 8, 10, tzinfo=UTC)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data in which Ada earned 1.7 credits in August."""
    place = DataLocation(tmp_path / "data")
    record(place, work(1, "ada"))
    for name in ("a1", "a2"):
        attribute(place, name, [1], AUGUST)
    return place.folder


def gmvaluator(*words: object) -> Any:
    """Run `gmvaluator WORDS --json`, which has to succeed, and return its data."""
    result = CliRunner().invoke(program, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("currency", "rate", "digits", "payable"), [("JPY", "25", 0, "50 JPY"), ("KWD", "0.1234", 3, "0.246 KWD")]
)
def test_a_month_is_closed_in_the_minor_unit_of_its_currency(
    data: Path, currency: str, rate: str, digits: int, payable: str
) -> None:
    closed = gmvaluator("ledger", "close", "2026-08", "--currency", currency, "--rate", rate, "--data", data)
    assert closed["terms"]["minor_digits"] == digits
    ada = owner_named(DataLocation(data), "ada")
    statement = gmvaluator("ledger", "statement", ada, "2026-08", "--data", data)
    assert (statement["payable"], statement["payable_minor"]) == (payable, closed["payable_minor"])


def test_decimals_that_contradict_the_currency_are_refused(data: Path) -> None:
    with pytest.raises(InvalidInput, match="JPY has 0 decimals by ISO 4217, not 2"):
        gmvaluator(
            "ledger", "close", "2026-08", "--currency", "JPY", "--minor-digits", "2", "--rate", "1", "--data", data
        )
    with pytest.raises(InvalidInput, match="'EUB' is no currency"):
        gmvaluator("ledger", "close", "2026-08", "--currency", "EUB", "--rate", "1", "--data", data)
    own = ("--currency", "XTS", "--minor-digits", "4", "--rate", "0.5", "--data", data)
    assert gmvaluator("ledger", "close", "2026-08", *own)["terms"]["minor_digits"] == 4


def test_a_month_closed_in_other_decimals_keeps_them(data: Path) -> None:
    """A ledger that signed yen with two decimals verifies, and repeating its closing and payout changes nothing."""
    with open_ledger(data, write=True) as book:
        terms = Terms("JPY", 2, 2_500_000_000, None, 0)
        before = close(book, Period(2026, 8), terms, Signer(data / KEY_FOLDER), None, decision_time())
    again = gmvaluator("ledger", "close", "2026-08", "--currency", "JPY", "--rate", "25", "--data", data)
    assert (again["hash"], again["terms"]["minor_digits"]) == (before.closing.posting.hash, 2)
    assert gmvaluator("ledger", "verify", "--data", data)["ok"]
