"""Closing of periods, statements, payouts and carry-over."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gmvaluator.auth.signing import Signer
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from gmvaluator.ledger.calendar import Period
from gmvaluator.ledger.decisions.dispute_holds import decide_dispute, open_dispute
from gmvaluator.ledger.decisions.disputes import Scope
from gmvaluator.ledger.decisions.reversal import reverse
from gmvaluator.ledger.page_queries import account_earnings
from gmvaluator.ledger.payouts.closing import Closed, NotClosable, close, payable_lines
from gmvaluator.ledger.payouts.payouts import pay
from gmvaluator.ledger.payouts.statement import Statement, statements
from gmvaluator.ledger.payouts.statement_formats import statement_csv, statement_json, statement_page
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_owner, sample_work
from tests.support.scenes import (
    DECEMBER,
    NOVEMBER,
    OCTOBER,
    SEPTEMBER,
    attribute,
    balances,
    import_rights,
    is_sound,
    owner_named,
    record,
    sha256_of,
    work,
)

SEP, OCT, NOV = Period(2026, 9), Period(2026, 10), Period(2026, 11)
TERMS = Terms("EUR", 2, 25_000_000, None, 1_000_000)  # 0.25 EUR a credit; from one credit on


@pytest.fixture
def filled(place: DataLocation) -> DataLocation:
    """Ada earns 1.5 credits in September and 1 in October; Ben 0.5 in September; one work has no known owner."""
    record(place, work(1, "ada"), work(2, "ben"), work(3, None))
    with open_ledger(place, write=True) as book:
        attribute(place, "g1", [1], SEPTEMBER, book=book)
        attribute(place, "g2", [1, 2], SEPTEMBER, book=book)
        attribute(place, "g3", [3], SEPTEMBER, book=book)
        attribute(place, "g4", [1], OCTOBER, book=book)
    return place


def close_period(book: Ledger, place: DataLocation, period: Period, terms: Terms = TERMS, **options: bool) -> Closed:
    with open_catalogue(place) as rights:
        signer = Signer(place.folder / "keys")
        # These tests are dated in 2026, whatever the clock says that their postings are stamped with.
        return close(book, period, terms, signer, rights, DECEMBER, confirmed_over=True, **options)


def statements_of(book: Ledger, place: DataLocation, period: Period) -> dict[str, Statement]:
    with open_catalogue(place) as names:
        by_name = {statement.display_name: statement for statement in statements(book, period, names)}
    return {name.split()[0].lower(): statement for name, statement in by_name.items()}


def exported(book: Ledger, place: DataLocation, period: Period) -> dict[str, str]:
    """Return the statements of all owners as JSON."""
    return {name: statement_json(statement) for name, statement in statements_of(book, place, period).items()}


def payout_statuses(book: Ledger, period: Period, reason: str, at: datetime) -> list[str]:
    return [payout.status for payout in pay(book, period, reason, at)]


def figures(statement: Statement) -> tuple[int, ...]:
    plain = statement.as_dict()
    names = ("opening", "credits", "adjustments", "holds", "payouts", "closing", "payable", "carry_over")
    return tuple(plain[f"{name}_micros"] for name in names)


def test_balances_carry_over_until_they_are_paid(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        closed = close_period(book, filled, SEP)
        assert [check.name for check in closed.checks if check.ok] == [check.name for check in closed.checks]
        september = statements_of(book, filled, SEP)
        assert figures(september["ada"]) == (0, 1_500_250, 0, 0, 0, 1_500_250, 1_500_250, 0)
        assert figures(september["ben"]) == (0, 499_750, 0, 0, 0, 499_750, 0, 499_750)
        assert (september["ada"].payable_minor, september["ada"].as_dict()["payable"]) == (37, "0.37 EUR")
        assert payout_statuses(book, SEP, "SEPA 1", NOVEMBER) == ["posted"]
        assert payout_statuses(book, SEP, "SEPA 1", NOVEMBER) == ["posted before"]
        close_period(book, filled, OCT)
        paid_late = (1_500_250, 1_000_000, 0, 0, -1_500_250, 1_000_000, 1_000_000, 0)
        assert figures(statements_of(book, filled, OCT)["ada"]) == paid_late
        assert payout_statuses(book, OCT, "SEPA 2", DECEMBER) == ["posted"]
        close_period(book, filled, NOV)
        assert figures(statements_of(book, filled, NOV)["ada"]) == (1_000_000, 0, 0, 0, -1_000_000, 0, 0, 0)
        assert book.totals().paid_micros == 2_500_250
        assert is_sound(book)


def test_a_clock_that_is_ahead_closes_no_period_that_is_not_over(filled: DataLocation) -> None:
    """The newest posting shows how late it is at least; the operator may vouch for a month without one after it."""
    later, signer = Period(2099, 1), Signer(filled.folder / "keys")
    ahead = datetime(2099, 3, 1, tzinfo=UTC)
    with open_ledger(filled, write=True) as book, open_catalogue(filled) as rights:
        with pytest.raises(NotClosable, match=r"over: .*check the clock, then use --confirm-over"):
            close(book, later, TERMS, signer, rights, ahead)
        assert book.verify().ok
        closed = close(book, later, TERMS, signer, rights, ahead, confirmed_over=True)
        assert all(check.ok for check in closed.checks)
        with pytest.raises(NotClosable, match="over"):
            close(book, Period(2099, 3), TERMS, signer, rights, ahead, confirmed_over=True)


def test_credits_disputed_after_their_month_are_not_payable_with_it(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, SEP)
        open_dispute(book, "case-1", Scope(None, book.posting_of_generation("g4").sequence), "mine", NOVEMBER)
        closed = close_period(book, filled, OCT, carry_disputes=True)
        ada = f"owner:{owner_named(filled, 'ada')}"
        assert [line for line in payable_lines(closed.closing) if line[0] == ada] == [(ada, 1_500_250, 37)]
        assert set(payout_statuses(book, OCT, "SEPA", NOVEMBER)) == {"posted"}
        before = exported(book, filled, OCT)
        decide_dispute(book, "case-1", None, "nothing was shown", NOVEMBER)
        assert exported(book, filled, OCT) == before
        (left,) = [line for line in payable_lines(close_period(book, filled, NOV).closing) if line[0] == ada]
        assert left == (ada, 1_000_000, 25)
        assert book.verify().ok


def test_payout_within_the_next_month_is_not_payable_again(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, SEP)
        pay(book, SEP, "SEPA 1", OCTOBER)
        close_period(book, filled, OCT)
        assert figures(statements_of(book, filled, OCT)["ada"]) == (
            1_500_250, 1_000_000, 0, 0, -1_500_250, 1_000_000, 1_000_000, 0
        )  # fmt: skip
        (paid,) = statements_of(book, filled, OCT)["ada"].as_dict()["payouts"]
        assert (paid["amount_minor"], paid["currency"], paid["reason"]) == (37, "EUR", "SEPA 1")
        with pytest.raises(PreconditionFailed, match="newest"):
            pay(book, SEP, "again", NOVEMBER)
        with pytest.raises(NotFound):
            pay(book, OCT, "nothing", NOVEMBER, f"owner:{owner_named(filled, 'ben')}")


def test_payout_of_credits_that_were_disputed_since_is_blocked(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, SEP)
        open_dispute(book, "ticket-1", Scope(sample_work(1), None), "not hers", NOVEMBER)
        assert payout_statuses(book, SEP, "SEPA 1", NOVEMBER) == ["blocked"]
        assert book.totals().paid_micros == 0
        assert min(balances(book)[owner] for owner in balances(book) if owner.startswith("owner:")) >= 0


def test_payout_does_not_reduce_earnings(filled: DataLocation) -> None:
    account = f"owner:{owner_named(filled, 'ada')}"
    with open_ledger(filled, write=True) as book:
        with book.snapshot() as connection:
            before = account_earnings(connection, account, 10, 10)
        close_period(book, filled, SEP)
        pay(book, SEP, "SEPA 1", NOVEMBER)
        with book.snapshot() as connection:
            assert balances(book)[account] == 1_000_000
            assert account_earnings(connection, account, 10, 10) == before
        assert sum(before.by_day.values()) == 2_500_250


def test_late_generation_belongs_to_the_open_period(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, SEP)
        before = exported(book, filled, SEP)
        attribute(filled, "late", [2], SEPTEMBER, book=book)
        assert exported(book, filled, SEP) == before
        (credit,) = statements_of(book, filled, OCT)["ben"].movements.credits
        assert (credit.credit_micros, credit.late_micros) == (1_000_000, 1_000_000)
        assert figures(statements_of(book, filled, OCT)["ben"])[:2] == (499_750, 1_000_000)


def test_repeated_export_is_byte_identical(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, SEP)
        formats = (statement_json, statement_csv, statement_page)
        first = [write(statement) for statement in statements_of(book, filled, SEP).values() for write in formats]
        attribute(filled, "g9", [1], OCTOBER, book=book)
        close_period(book, filled, OCT)
    with open_ledger(filled) as book:
        again = [write(statement) for statement in statements_of(book, filled, SEP).values() for write in formats]
    assert again == first


def test_statements_sum_to_the_ledger(filled: DataLocation, tmp_path: Path) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, SEP)
        pay(book, SEP, "SEPA", OCTOBER)
        open_dispute(book, "case-1", Scope(sample_work(2), None), "mine", OCTOBER)
        reverse(book, book.posting_of_generation("g1"), "test image", OCTOBER)
        close_period(book, filled, OCT, carry_disputes=True)
        for period in (SEP, OCT):
            for statement in statements_of(book, filled, period).values():
                assert statement.movements.closing_micros == sum(figures(statement)[:5])
        october = statements_of(book, filled, OCT).values()
        owners = {statement.as_dict()["account"]: statement.movements.closing_micros for statement in october}
        assert {name: amount for name, amount in owners.items() if amount} == {
            name: amount for name, amount in balances(book).items() if name.startswith("owner:")
        }
        facts = close_period(book, filled, OCT).closing.decision.facts
        assert facts["balances"]["owners"] == sum(owners.values())
        assert sum(facts["balances"].values()) == 0
        # Ada was paid September's credits, of which one was reversed since: she owes it.
        assert statements_of(book, filled, OCT)["ada"].movements.closing_micros == 0
        assert statements_of(book, filled, OCT)["ben"].as_dict()["holds_micros"] == -499_750


def test_pending_dispute_or_release_prevents_closing(filled: DataLocation, tmp_path: Path) -> None:
    head = "sha256,owner_id,share_ppm\n"
    import_rights(filled, tmp_path, head + f"{sha256_of(3)},cleo,1000000\n")
    with open_ledger(filled, write=True) as book:
        open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", OCTOBER)
        with pytest.raises(NotClosable) as refused:
            close_period(book, filled, SEP)
        assert {check.name for check in refused.value.checks if not check.ok} == {"released", "disputes"}
        decide_dispute(book, "case-1", None, "no", OCTOBER)
        with pytest.raises(NotClosable, match="release them"):
            close_period(book, filled, SEP)


def test_periods_are_closed_in_order_after_their_end(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        with open_catalogue(filled) as rights, pytest.raises(NotClosable, match="ends on 2026-10-01"):
            close(book, SEP, TERMS, Signer(filled.folder / "keys"), rights, SEPTEMBER)
        close_period(book, filled, SEP)
        with pytest.raises(NotClosable, match="close 2026-10 first"):
            close_period(book, filled, NOV)
        with pytest.raises(NotClosable, match="it is part of 2026-09, the first period that was closed"):
            close_period(book, filled, Period(2026, 8))
        with pytest.raises(PreconditionFailed, match="first period"):
            statements_of(book, filled, Period(2026, 8))


def test_first_period_includes_everything_before_it(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        close_period(book, filled, OCT)
        assert figures(statements_of(book, filled, OCT)["ada"])[:2] == (0, 2_500_250)


def test_repeated_closing_is_idempotent_and_refuses_other_terms(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        first = close_period(book, filled, SEP)
        again = close_period(book, filled, SEP)
        assert (again.closing, again.checkpoint) == (first.closing, first.checkpoint)
        with pytest.raises(Conflict, match="rate_micros"):
            close_period(book, filled, SEP, Terms("EUR", 2, 1, None, 1_000_000))


def test_open_period_has_a_draft(filled: DataLocation) -> None:
    with open_ledger(filled) as book:
        draft = statements_of(book, filled, SEP)["ada"]
        assert draft.as_dict()["status"] == "draft"
        assert "Draft" in statement_page(draft)
        assert json.loads(statement_json(draft))["payable"] is None


def test_owner_without_credits_has_an_empty_statement(filled: DataLocation) -> None:
    with open_ledger(filled) as book:
        (empty,) = statements(book, SEP, None, sample_owner(1))
        assert figures(empty) == (0,) * 8


@pytest.mark.parametrize("text", ["2026-13", "2026", "26-01", "2026-1", "2026-11-01", "0000-01"])
def test_period_is_a_month(text: str) -> None:
    with pytest.raises(InvalidInput, match="YYYY-MM"):
        Period.parse(text)
    assert Period.parse("2026-12").next().previous() == Period(2026, 12)
    assert Period(2027, 1).previous() == Period(2026, 12)


def test_credits_posted_during_a_dispute_are_not_payable(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", SEPTEMBER)
        attribute(filled, "g5", [1], SEPTEMBER, book=book)
        attribute(filled, "g6", [1, 2], NOVEMBER, book=book)
        closed = close_period(book, filled, SEP, carry_disputes=True)
        assert payable_lines(closed.closing) == []
        # g4 was held when the dispute was opened, g6 is of a later month and is held with that.
        assert figures(statements_of(book, filled, SEP)["ada"])[:6] == (0, 2_500_250, 0, -3_500_250, 0, -1_000_000)
        assert figures(statements_of(book, filled, OCT)["ada"])[:6] == (-1_000_000, 1_000_000, 0, 0, 0, 0)
        close_period(book, filled, OCT, carry_disputes=True)
        facts = close_period(book, filled, OCT).closing.decision.facts
        assert facts["carried_disputes"] == ["case-1"]
