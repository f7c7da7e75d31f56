"""`gmvaluator ledger payout|payout-reference`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from gmvaluator.accounts import owner_account
from gmvaluator.commands.confirmation import Confirmation, confirmation_options
from gmvaluator.commands.options import json_option, place_option
from gmvaluator.commands.owners import owner_argument
from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from gmvaluator.ledger.payouts.payouts import Payout
    from gmvaluator.ledger.payouts.terms import Terms


@click.command()
@click.argument("period")
@click.option("--owner", help="Pay only this owner, a UUID.")
@click.option(
    "--reason",
    default="paid out",
    show_default=True,
    help="Why; the bank's reference can be added later by `ledger payout-reference`.",
)
@confirmation_options
@place_option
@json_option
def payout(
    period: str, owner: str | None, reason: str, confirmation: Confirmation, place: DataLocation, as_json: bool
) -> None:
    """Post the payouts of PERIOD, one for each owner; repeating the command posts nothing.

    The exit code is 1 if an owner's balance has fallen below the payable amount since the period was closed.

    Example: gmvaluator ledger payout 2026-10 --reason "SEPA batch 17"
    """
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.decision import checked_reason
    from gmvaluator.ledger.payouts.closing import closing_terms
    from gmvaluator.ledger.payouts.payouts import pay
    from gmvaluator.ledger.store import decision_time, open_ledger

    month, account = Period.parse(period), None if owner is None else owner_account(owner_argument(owner, place))
    why = checked_reason(reason)
    with open_ledger(place, write=True, create=False) as book:

        def decide() -> list[Payout]:
            return pay(book, month, why, decision_time(), account)

        def describe(payouts: Sequence[Payout]) -> list[str]:
            with book.snapshot() as connection:
                return _describe_payouts(payouts, closing_terms(connection, month))

        payouts = confirmation.decide(book, place, decide, describe)
        with book.snapshot() as connection:
            terms = closing_terms(connection, month)
    _print_payouts(period, payouts, terms, confirmation.dry_run, as_json)
    if any(payout.status == "blocked" for payout in payouts):
        raise Exit(1)


@click.command("payout-reference")
@click.argument("period")
@click.argument("reference")
@click.option("--owner", help="Only the payout of this owner, a UUID.")
@place_option
@json_option
def payout_reference(period: str, reference: str, owner: str | None, place: DataLocation, as_json: bool) -> None:
    """Add the bank's REFERENCE to the payouts of PERIOD by an entry of its own; statements show it.

    The newest reference of a payout counts. Repeating the command posts nothing.

    Example: gmvaluator ledger payout-reference 2026-10 "SEPA batch 17, 2026-11-04"
    """
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.payouts.references import add_reference
    from gmvaluator.ledger.store import decision_time, open_ledger

    month, account = Period.parse(period), None if owner is None else owner_account(owner_argument(owner, place))
    with open_ledger(place, write=True, create=False) as book:
        added = add_reference(book, month, reference, decision_time(), account)
    if as_json:
        click.echo(json.dumps({"period": period, "payouts": added.payouts, "added": added.posted}))
    else:
        click.echo(f"{added.posted:,} of {added.payouts:,} payouts of {period} have a new reference")


def _print_payouts(period: str, payouts: Sequence[Payout], terms: Terms, dry_run: bool, as_json: bool) -> None:
    if as_json:
        lines = [
            {
                **payout.as_dict(),
                "status": "due" if dry_run and payout.status == "posted" else payout.status,
                "amount": terms.money_text(payout.amount_minor),
            }
            for payout in payouts
        ]
        money = {"currency": terms.currency, "minor_digits": terms.minor_digits}
        click.echo(json.dumps({"period": period, "dry_run": dry_run, **money, "payouts": lines}))
        return
    posted, blocked = (sum(payout.status == status for payout in payouts) for status in ("posted", "blocked"))
    for line in _describe_payouts(payouts, terms):
        click.echo(line)
    would = "would be posted" if dry_run else "posted"
    click.echo(f"{posted:,} payouts {would}, {len(payouts) - posted - blocked:,} were posted before")


def _describe_payouts(payouts: Sequence[Payout], terms: Terms) -> list[str]:
    from gmvaluator.ledger.payouts.currencies import MINOR_DIGITS

    lines = [
        f"{payout.account}: its balance has fallen below the payable amount; nothing is posted for it"
        for payout in payouts
        if payout.status == "blocked"
    ]
    due = [payout for payout in payouts if payout.status == "posted"]
    if due:
        lines.append(f"{terms.money_text(sum(payout.amount_minor for payout in due))} to {len(due):,} owners")
    if MINOR_DIGITS.get(terms.currency, terms.minor_digits) != terms.minor_digits:
        lines.append(
            f"the month was closed with {terms.minor_digits} decimals of {terms.currency}, which has "
            f"{MINOR_DIGITS[terms.currency]} by ISO 4217: amount_minor counts other units than your bank does"
        )
    return lines
