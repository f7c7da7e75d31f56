"""Currencies of ISO 4217 with the decimals of their minor units.

Source: ISO 4217 list one (SIX Financial Information, the maintenance agency), as amended up to 2026-01-01:
https://www.six-group.com/en/products-services/financial-information/data-standards.html. Codes without a minor unit,
such as gold (XAU) and special drawing rights (XDR), and withdrawn codes are left out.
"""

from __future__ import annotations

from gmvaluator.errors import InvalidInput

_CODES_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW "
    "CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR "
    "ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV "
    "MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD "
    "SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

MINOR_DIGITS = {code: digits for digits, codes in _CODES_BY_DIGITS.items() for code in codes.split()}
"""Decimals of the minor unit by currency code, such as 2 for EUR (cents) and 0 for JPY."""


def minor_digits(currency: str, chosen: int | None = None) -> int:
    """Return the decimals of a currency's minor unit.

    chosen: the decimals that the caller expects, which decide only for a code that ISO 4217 gives no minor unit. Raises
    InvalidInput if they contradict ISO 4217, or are missing for such a code.
    """
    listed = MINOR_DIGITS.get(currency)
    if listed is None and chosen is None:
        raise InvalidInput(
            f"{currency[:10]!r} is no currency with a minor unit by ISO 4217: give three capital letters, such as EUR, "
            "or the decimals of a code of your own by --minor-digits"
        )
    if listed is not None and chosen is not None and chosen != listed:
        raise InvalidInput(f"{currency} has {listed} decimals by ISO 4217, not {chosen}: leave out --minor-digits")
    return listed if listed is not None else chosen or 0
