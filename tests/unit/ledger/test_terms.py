"""Terms of payment and releases: whole numbers that sum exactly, whatever the balances are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.decision_effects import release_amounts
from gmvaluator.ledger.payouts.terms import Terms, scaled_decimal
from gmvaluator.valuation.weights import MILLION

accounts = st.dictionaries(
    st.integers(0, 30).map(lambda number: f"owner:{number:02d}"), st.integers(-(10**12), 10**12), max_size=12
)


@given(accounts, st.one_of(st.none(), st.integers(0, 10**9)), st.integers(0, 10**9), st.integers(0, 10**10))
def test_what_is_payable_sums_to_the_pool_or_the_rate(
    balances: dict[str, int], pool: int | None, rate: int, threshold: int
) -> None:
    terms = Terms("EUR", 2, rate, pool, threshold)
    payable = terms.payable(balances)
    due = {account: balance for account, balance in balances.items() if balance > 0 and balance >= threshold}
    assert payable.keys() == due.keys()
    by_rate = sum(due.values()) * rate // 10**12
    assert sum(payable.values()) == (min(by_rate, pool) if pool is not None and due else by_rate)
    whole = sum(payable.values())
    for account, minor in payable.items():
        assert abs(minor * sum(due.values()) - whole * due[account]) < sum(due.values())


@given(accounts, st.integers(0, 10**9))
def test_the_order_of_accounts_is_irrelevant(balances: dict[str, int], pool: int) -> None:
    terms = Terms("EUR", 2, None, pool, 0)
    turned = dict(reversed(balances.items()))
    assert terms.payable(balances) == terms.payable(turned)


splits = st.lists(st.integers(1, 10), min_size=1, max_size=5).map(
    lambda weights: [weight * MILLION // sum(weights) for weight in weights]
)


@given(
    st.dictionaries(st.sampled_from(["owner:a", "owner:b", "suspense", "held"]), st.integers(1, 10**7), min_size=1),
    splits,
    st.sampled_from(["suspense", "held", "owner:c"]),
)
def test_a_release_takes_from_suspense_and_held_only_and_settles_at_once(
    have: dict[str, int], shares: list[int], rest: str
) -> None:
    rights = [(f"owner:{letter}", share) for letter, share in zip("abcde", shares, strict=False) if share]
    missing = MILLION - sum(share for _, share in rights)
    by_account = dict(rights)
    by_account[rest] = by_account.get(rest, 0) + missing
    rights = [(account, share) for account, share in sorted(by_account.items()) if share]
    moved = release_amounts(have, rights)
    assert sum(moved.values()) == 0
    assert all(amount >= 0 for account, amount in moved.items() if account not in ("suspense", "held"))
    after = {account: have.get(account, 0) + moved.get(account, 0) for account in have.keys() | moved.keys()}
    assert min(after.values()) >= 0
    assert release_amounts({account: amount for account, amount in after.items() if amount}, rights) == {}


@pytest.mark.parametrize(
    ("text", "digits", "value"), [("12.5", 2, 1250), ("0", 6, 0), ("0.000001", 6, 1), ("1000", 0, 1000)]
)
def test_decimals_become_whole_numbers(text: str, digits: int, value: int) -> None:
    assert scaled_decimal(text, digits, "the rate") == value


@pytest.mark.parametrize("text", ["", "-1", "1e5", "NaN", "0.001", "1,5", " 1", "9" * 16, "٣"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="the rate"):
        scaled_decimal(text, 2, "the rate")


@pytest.mark.parametrize(
    ("currency", "digits", "rate", "pool", "threshold"),
    [("EURO", 2, 1, 1, 0), ("eur", 2, 1, 1, 0), ("EUR", 5, 1, 1, 0), ("EUR", 2, None, None, 0), ("EUR", 2, 1, 1, -1)],
)
def test_terms_that_cannot_be_are_refused(
    currency: str, digits: int, rate: int | None, pool: int | None, threshold: int
) -> None:
    with pytest.raises(InvalidInput):
        Terms(currency, digits, rate, pool, threshold)


def test_money_is_shown_with_the_decimals_of_its_currency() -> None:
    euro, yen = Terms("EUR", 2, 25_000_000, None, 0), Terms("JPY", 0, 1_500_000, None, 0)
    assert [euro.money_text(minor) for minor in (0, 5, 1234, -7)] == ["0.00 EUR", "0.05 EUR", "12.34 EUR", "-0.07 EUR"]
    assert (yen.money_text(12), euro.rate_text(), yen.rate_text()) == ("12 JPY", "0.25 EUR", "1.5 JPY")
    assert Terms("EUR", 2, None, 1, 0).rate_text() == "by the pool"
