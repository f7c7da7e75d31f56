"""Audit of closings and payouts: wrong decisions are found, although every row is as it was posted."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gmvaluator.ledger.calendar import closings
from gmvaluator.ledger.decision import PAYOUT, Decision, Links, NewDecision, decision_id
from gmvaluator.ledger.decision_effects import decision_entries
from gmvaluator.ledger.decisions.dispute_holds import open_dispute
from gmvaluator.ledger.decisions.disputes import Scope
from gmvaluator.ledger.payouts.audit import payment_problems, verify_with_payments
from gmvaluator.ledger.payouts.payouts import pay
from gmvaluator.ledger.store import Ledger, ledger_file, open_ledger
from gmvaluator.ledger.writer import BatchWriter
from gmvaluator.testing.postings import sample_work
from tests.support.finance import ADA, AUG, DECISIONS, NOW, OCT, SEP, fill_and_close
from tests.support.scenes import post_decisions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose ledger has closed its September."""
    with open_ledger(tmp_path, write=True) as book:
        fill_and_close(book, tmp_path / "keys")
    return tmp_path


@pytest.fixture
def book(folder: Path) -> Iterator[Ledger]:
    with open_ledger(folder, write=True) as opened:
        yield opened


def closing_of_october(folder: Path, aside: Path) -> NewDecision:
    """Return the posting that would close October now."""
    aside.mkdir()
    shutil.copy(ledger_file(folder), ledger_file(aside))
    with open_ledger(aside, write=True) as copy:
        DECISIONS["close October"](copy, folder / "keys")
        with copy.snapshot() as connection:
            (closing,) = closings(connection, OCT)
    return NewDecision(decision_id("close", OCT), NOW, closing.decision)


@pytest.fixture
def october(folder: Path) -> NewDecision:
    return closing_of_october(folder, folder / "aside")


def finding_of(book: Ledger, folder: Path) -> str:
    """Sign what was closed, and return what the audit finds."""
    DECISIONS["close October"](book, folder / "keys")
    assert book.verify().ok
    return verify_with_payments(book).text()


def test_closing_that_overlooked_a_payout_is_found(october: NewDecision, book: Ledger, folder: Path) -> None:
    pay(book, SEP, "SEPA 1", NOW)
    post_decisions(book, [october])
    found = f"period 2026-10 made 2,499,750 micro-credits payable to owner:{ADA}, of which 999,500 were due"
    assert finding_of(book, folder).endswith(found)


def test_closing_that_overlooked_a_dispute_is_found(october: NewDecision, book: Ledger, folder: Path) -> None:
    open_dispute(book, "case-2", Scope(sample_work(1), None), "not hers", NOW)
    post_decisions(book, [october])
    assert f"payable to owner:{ADA}, of which 0 were due" in finding_of(book, folder)


def test_closing_on_other_balances_is_found(october: NewDecision, book: Ledger, folder: Path) -> None:
    facts = {**october.decision.facts, "balances": {**october.decision.facts["balances"], "paid": 1}}
    post_decisions(book, [replace(october, decision=replace(october.decision, facts=facts))])
    assert "period 2026-10 was closed on other balances than the ledger held" in finding_of(book, folder)


def test_closings_out_of_order_are_found(october: NewDecision, book: Ledger) -> None:
    decision = replace(october.decision, links=Links(period=str(OCT.next())))
    post_decisions(book, [NewDecision(decision_id("close", OCT.next()), NOW, decision)])
    with book.snapshot() as connection:
        first = next(payment_problems(connection))
    assert first.what == "period 2026-11 was closed after 2026-09, which does not precede it"


def payout_of(account: str, period: object, amount: int, minor: int) -> NewDecision:
    facts: dict[str, Any] = {
        "account": account, "amount_micros": amount, "amount_minor": minor, "currency": "EUR", "minor_digits": 2
    }  # fmt: skip
    decision = Decision(PAYOUT, "paid", facts, Links(period=str(period)))
    new_id = decision_id(PAYOUT, period, account.partition(":")[2])
    return NewDecision(new_id, NOW - timedelta(days=1), decision, decision_entries(decision))


def test_payout_of_a_period_that_is_not_the_newest_is_found(book: Ledger) -> None:
    post_decisions(book, [payout_of(f"owner:{ADA}", AUG, 1, 1)])
    assert (
        verify_with_payments(book).text().endswith(f"payout of 2026-08 to owner:{ADA}, which was not the newest closed")
    )


def test_payout_of_another_amount_is_found(book: Ledger) -> None:
    post_decisions(book, [payout_of(f"owner:{ADA}", SEP, 1, 1)])
    assert verify_with_payments(book).text().endswith("which period 2026-09 did not make payable")


def test_payout_of_more_than_was_earned_is_found(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchWriter, "_check_funds", lambda *_: None)
    post_decisions(book, [payout_of(f"owner:{ADA}", SEP, 9_000_000, 225)])
    assert "it was paid more than it earned" in book.verify().text()
