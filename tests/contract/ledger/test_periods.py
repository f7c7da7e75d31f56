"""Closing, statements, payouts and carry-over: what a month holds is fixed, signed, and adds up."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from gmvaluator.auth.signing import Signer
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from gmvaluator.ledger.calendar import Period
from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.decisions.dispute_holds import decide_dispute, open_dispute
from gmvaluator.ledger.decisions.disputes import Scope
from gmvaluator.ledger.decisions.reversal import reverse
from gmvaluator.ledger.page_queries import account_earnings
from gmvaluator.ledger.payouts import payouts
from gmvaluator.ledger.payouts.closing import Closed, NotClosable, close, payable_lines
from gmvaluator.ledger.payouts.payouts import pay
from gmvaluator.ledger.payouts.statement import Statement, statements
from gmvaluator.ledger.payouts.statement_formats import statement_csv, statement_json, statement_page
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.store import Ledger, open_ledger, post_decisions
from gmvaluator.ledger.verification import replay
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_work
from tests.support.scenes import (
    DECEMBER,
    NOVEMBER,
    OCTOBER,
    SEPTEMBER,
    attribute,
    balances,
    import_rights,
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


def closed(book: Ledger, place: DataLocation, period: Period, terms: Terms = TERMS, **options: bool) -> Closed:
    with open_catalogue(place) as rights:
        return close(book, period, terms, Signer(place.folder / "keys"), rights, DECEMBER, **options)


def of(book: Ledger, place: DataLocation, period: Period) -> dict[str, Statement]:
    with open_catalogue(place) as names:
        return {one.display_name.split()[0].lower(): one for one in statements(book, period, names)}


def figures(statement: Statement) -> tuple[int, ...]:
    found = statement.as_dict()
    names = ("opening", "credits", "adjustments", "holds", "payouts", "closing", "payable", "carry_over")
    return tuple(found[f"{name}_micros"] for name in names)


def test_balances_carry_over_until_they_are_paid(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        done = closed(book, filled, SEP)
        assert [check.name for check in done.checks if check.ok] == [check.name for check in done.checks]
        september = of(book, filled, SEP)
        assert figures(september["ada"]) == (0, 1_500_250, 0, 0, 0, 1_500_250, 1_500_250, 0)
        assert figures(september["ben"]) == (0, 499_750, 0, 0, 0, 499_750, 0, 499_750)
        assert (september["ada"].payable_minor, september["ada"].as_dict()["payable"]) == (37, "0.37 EUR")
        assert [one.status for one in pay(book, SEP, "SEPA 1", NOVEMBER)] == ["posted"]
        assert [one.status for one in pay(book, SEP, "SEPA 1", NOVEMBER)] == ["posted before"]
        closed(book, filled, OCT)
        paid_late = (1_500_250, 1_000_000, 0, 0, -1_500_250, 1_000_000, 1_000_000, 0)
        assert figures(of(book, filled, OCT)["ada"]) == paid_late
        assert [one.status for one in pay(book, OCT, "SEPA 2", DECEMBER)] == ["posted"]
        closed(book, filled, NOV)
        assert figures(of(book, filled, NOV)["ada"]) == (1_000_000, 0, 0, 0, -1_000_000, 0, 0, 0)
        assert book.totals().paid_micros == 2_500_250
        assert all(replay(posting).equal for posting in book.every_posting())
        assert book.verify().ok


def test_what_is_disputed_after_a_month_is_not_payable_with_it(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, SEP)
        open_dispute(book, "case-1", Scope(None, book.posting_of_generation("g4").sequence), "mine", NOVEMBER)
        done = closed(book, filled, OCT, carry_disputes=True)
        ada = f"owner:{owner_named(filled, 'ada')}"
        assert [line for line in payable_lines(done.closing) if line[0] == ada] == [(ada, 1_500_250, 37)]
        assert {one.status for one in pay(book, OCT, "SEPA", NOVEMBER)} == {"posted"}
        before = {name: statement_json(one) for name, one in of(book, filled, OCT).items()}
        decide_dispute(book, "case-1", None, "nothing was shown", NOVEMBER)
        assert {name: statement_json(one) for name, one in of(book, filled, OCT).items()} == before
        (left,) = [line for line in payable_lines(closed(book, filled, NOV).closing) if line[0] == ada]
        assert left == (ada, 1_000_000, 25)
        assert book.verify().ok


def test_a_payout_in_time_leaves_the_next_month_its_own(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, SEP)
        pay(book, SEP, "SEPA 1", OCTOBER)
        closed(book, filled, OCT)
        assert figures(of(book, filled, OCT)["ada"]) == (
            1_500_250, 1_000_000, 0, 0, -1_500_250, 1_000_000, 1_000_000, 0
        )  # fmt: skip
        (paid,) = of(book, filled, OCT)["ada"].as_dict()["payouts"]
        assert (paid["amount_minor"], paid["currency"], paid["reason"]) == (37, "EUR", "SEPA 1")
        with pytest.raises(PreconditionFailed, match="newest"):
            pay(book, SEP, "again", NOVEMBER)
        with pytest.raises(NotFound):
            pay(book, OCT, "nothing", NOVEMBER, f"owner:{owner_named(filled, 'ben')}")


def test_a_payout_does_not_take_what_was_held_meanwhile(filled: DataLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, SEP)

        def after_a_dispute(to: Ledger, new: Sequence[NewDecision]) -> list[StoredPosting]:
            open_dispute(to, "ticket-1", Scope(sample_work(1), None), "not hers", NOVEMBER)
            return post_decisions(to, new)

        monkeypatch.setattr(payouts, "post_decisions", after_a_dispute)
        with pytest.raises(Conflict, match="has 0: another decision was posted meanwhile; run the command again"):
            pay(book, SEP, "SEPA 1", NOVEMBER)
        monkeypatch.undo()
        assert [one.status for one in pay(book, SEP, "SEPA 1", NOVEMBER)] == ["blocked"]
        assert book.totals().paid_micros == 0
        assert min(balances(book)[owner] for owner in balances(book) if owner.startswith("owner:")) >= 0


def test_a_payout_takes_nothing_from_what_was_earned(filled: DataLocation) -> None:
    account = f"owner:{owner_named(filled, 'ada')}"
    with open_ledger(filled, write=True) as book:
        with book.snapshot() as connection:
            before = account_earnings(connection, account, 10, 10)
        closed(book, filled, SEP)
        pay(book, SEP, "SEPA 1", NOVEMBER)
        with book.snapshot() as connection:
            assert balances(book)[account] == 1_000_000
            assert account_earnings(connection, account, 10, 10) == before
        assert sum(before.by_day.values()) == 2_500_250


def test_a_late_generation_goes_to_the_open_period_with_its_own_time(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, SEP)
        before = {name: statement_json(one) for name, one in of(book, filled, SEP).items()}
        attribute(filled, "late", [2], SEPTEMBER, book=book)
        assert {name: statement_json(one) for name, one in of(book, filled, SEP).items()} == before
        (credit,) = of(book, filled, OCT)["ben"].movements.credits
        assert (credit.credit_micros, credit.late_micros) == (1_000_000, 1_000_000)
        assert figures(of(book, filled, OCT)["ben"])[:2] == (499_750, 1_000_000)


def test_a_second_export_is_the_same_bytes(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, SEP)
        forms = (statement_json, statement_csv, statement_page)
        first = [form(one) for one in of(book, filled, SEP).values() for form in forms]
        attribute(filled, "g9", [1], OCTOBER, book=book)
        closed(book, filled, OCT)
    with open_ledger(filled) as book:
        assert [form(one) for one in of(book, filled, SEP).values() for form in forms] == first


def test_the_sum_of_all_statements_is_the_ledger(filled: DataLocation, tmp_path: Path) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, SEP)
        pay(book, SEP, "SEPA", OCTOBER)
        open_dispute(book, "case-1", Scope(sample_work(2), None), "mine", OCTOBER)
        reverse(book, book.posting_of_generation("g1"), "test image", OCTOBER)
        closed(book, filled, OCT, carry_disputes=True)
        for period in (SEP, OCT):
            found = of(book, filled, period).values()
            assert all(one.movements.closing_micros == sum(figures(one)[:5]) for one in found)
        found = of(book, filled, OCT).values()
        owners = {one.as_dict()["account"]: one.movements.closing_micros for one in found}
        assert {name: amount for name, amount in owners.items() if amount} == {
            name: amount for name, amount in balances(book).items() if name.startswith("owner:")
        }
        facts = closed(book, filled, OCT).closing.decision.facts
        assert facts["balances"]["owners"] == sum(owners.values())
        assert sum(facts["balances"].values()) == 0
        # Ada was paid September's credits, of which one was reversed since: she owes it.
        assert of(book, filled, OCT)["ada"].movements.closing_micros == 0
        assert of(book, filled, OCT)["ben"].as_dict()["holds_micros"] == -499_750


def test_a_dispute_or_a_release_is_pending(filled: DataLocation, tmp_path: Path) -> None:
    head = "sha256,owner_id,share_ppm\n"
    import_rights(filled, tmp_path, head + f"{sha256_of(3)},cleo,1000000\n")
    with open_ledger(filled, write=True) as book:
        open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", OCTOBER)
        with pytest.raises(NotClosable) as refused:
            closed(book, filled, SEP)
        assert {check.name for check in refused.value.checks if not check.ok} == {"released", "disputes"}
        decide_dispute(book, "case-1", None, "no", OCTOBER)
        with pytest.raises(NotClosable, match="release them"):
            closed(book, filled, SEP)


def test_periods_are_closed_in_order_when_they_are_over(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        with open_catalogue(filled) as rights, pytest.raises(NotClosable, match="ends on 2026-10-01"):
            close(book, SEP, TERMS, Signer(filled.folder / "keys"), rights, SEPTEMBER)
        closed(book, filled, SEP)
        with pytest.raises(NotClosable, match="close 2026-10 first"):
            closed(book, filled, NOV)
        with pytest.raises(PreconditionFailed, match="first period"):
            of(book, filled, Period(2026, 8))


def test_the_first_period_takes_in_what_was_before_it(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        closed(book, filled, OCT)
        assert figures(of(book, filled, OCT)["ada"])[:2] == (0, 2_500_250)


def test_closing_again_answers_the_same_and_other_terms_are_refused(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        first = closed(book, filled, SEP)
        again = closed(book, filled, SEP)
        assert (again.closing, again.checkpoint) == (first.closing, first.checkpoint)
        with pytest.raises(Conflict, match="rate_micros"):
            closed(book, filled, SEP, Terms("EUR", 2, 1, None, 1_000_000))


def test_an_open_period_has_a_draft(filled: DataLocation) -> None:
    with open_ledger(filled) as book:
        draft = of(book, filled, SEP)["ada"]
        assert draft.as_dict()["status"] == "draft"
        assert "Draft" in statement_page(draft)
        assert json.loads(statement_json(draft))["payable"] is None


def test_an_owner_without_anything_has_an_empty_statement(filled: DataLocation) -> None:
    from gmvaluator.testing.postings import sample_owner

    with open_ledger(filled) as book:
        (empty,) = statements(book, SEP, None, sample_owner(1))
        assert figures(empty) == (0,) * 8


@pytest.mark.parametrize("text", ["2026-13", "2026", "26-01", "2026-1", "2026-11-01", "0000-01"])
def test_a_period_is_a_month(text: str) -> None:
    with pytest.raises(InvalidInput, match="YYYY-MM"):
        Period.parse(text)
    assert Period.parse("2026-12").next().previous() == Period(2026, 12)
    assert Period(2027, 1).previous() == Period(2026, 12)


def test_what_came_in_under_a_dispute_is_not_payable(filled: DataLocation) -> None:
    with open_ledger(filled, write=True) as book:
        open_dispute(book, "case-1", Scope(sample_work(1), None), "mine", SEPTEMBER)
        attribute(filled, "g5", [1], SEPTEMBER, book=book)
        attribute(filled, "g6", [1, 2], NOVEMBER, book=book)
        done = closed(book, filled, SEP, carry_disputes=True)
        assert payable_lines(done.closing) == []
        # g4 was held when the dispute was opened, g6 is of a later month and is held with that.
        assert figures(of(book, filled, SEP)["ada"])[:6] == (0, 2_500_250, 0, -3_500_250, 0, -1_000_000)
        assert figures(of(book, filled, OCT)["ada"])[:6] == (-1_000_000, 1_000_000, 0, 0, 0, 0)
        closed(book, filled, OCT, carry_disputes=True)
        closed_at = closed(book, filled, OCT).closing.decision.facts
        assert closed_at["carried_disputes"] == ["case-1"]
