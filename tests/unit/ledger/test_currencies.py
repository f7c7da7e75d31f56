"""Decimals of currencies: those of ISO 4217, and terms that are parsed and printed with them."""

import pytest

from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.payouts.currencies import MINOR_DIGITS, minor_digits
from gmvaluator.ledger.payouts.terms import Terms


@pytest.mark.parametrize(
    ("currency", "digits"),
    [("EUR", 2), ("USD", 2), ("HUF", 2), ("JPY", 0), ("KRW", 0), ("ISK", 0), ("KWD", 3), ("TND", 3), ("CLF", 4)],
)
def test_a_currency_has_the_decimals_of_its_standard(currency: str, digits: int) -> None:
    assert minor_digits(currency) == minor_digits(currency, digits) == digits


def test_every_code_is_listed_once_and_can_be_used_in_terms() -> None:
    assert len(MINOR_DIGITS) == 165
    for currency, digits in MINOR_DIGITS.items():
        assert Terms.parse(currency, digits, "1", None, "0").rate_text() == f"1 {currency}"


@pytest.mark.parametrize(("currency", "chosen"), [("JPY", 2), ("EUR", 0), ("KWD", 2)])
def test_decimals_that_contradict_the_standard_are_refused(currency: str, chosen: int) -> None:
    with pytest.raises(InvalidInput, match=f"{currency} has {minor_digits(currency)} decimals by ISO 4217, not"):
        minor_digits(currency, chosen)


@pytest.mark.parametrize("currency", ["EUB", "XAU", "XXX", "eur", "EURO", ""])
def test_other_codes_need_their_decimals(currency: str) -> None:
    with pytest.raises(InvalidInput, match="--minor-digits"):
        minor_digits(currency)
    assert minor_digits("XTS", 0) == 0


def test_rate_and_pool_are_scaled_to_the_minor_unit() -> None:
    yen, dinar = Terms.parse("JPY", 0, "25", "1000", "0"), Terms.parse("KWD", 3, "0.1234", "10.5", "0")
    assert (yen.rate_micros, yen.pool_minor) == (25_000_000, 1_000)
    assert (dinar.rate_micros, dinar.pool_minor) == (123_400_000, 10_500)
    # 1.6876 credits are 42.19 yen, of which whole ones are paid.
    assert yen.payable({"owner:a": 1_687_600}) == {"owner:a": 42}
    assert (yen.money_text(42), dinar.money_text(42)) == ("42 JPY", "0.042 KWD")
    with pytest.raises(InvalidInput, match=r"the pool in JPY '10\.5' is refused: give a whole number"):
        Terms.parse("JPY", 0, None, "10.5", "0")
