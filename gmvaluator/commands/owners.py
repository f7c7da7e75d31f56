"""`gmvaluator owners list|show`, and owners as arguments of other commands."""

from __future__ import annotations

import json
import uuid
from typing import Any

import rich_click as click

from gmvaluator.accounts import OWNER_PREFIX, owner_account
from gmvaluator.commands.options import json_option, limit_option, place_option
from gmvaluator.errors import MissingData, NotFound
from gmvaluator.ids import OwnerId
from gmvaluator.storage.database import DataLocation


def owner_argument(text: str, place: DataLocation) -> OwnerId:
    """Return the owner that `text` names: a UUID, `owner:<uuid>`, a manifest's owner_id, or a name.

    A UUID is not looked up, as the ledger may know an owner whose catalogue is elsewhere. Raises NotFound, or
    InvalidInput if several owners have the name.
    """
    from gmvaluator.catalogue.listing import find_owner
    from gmvaluator.catalogue.store import open_catalogue

    try:
        return OwnerId(uuid.UUID(text.removeprefix(OWNER_PREFIX)))
    except ValueError:
        pass
    try:
        with open_catalogue(place) as catalogue:
            return find_owner(catalogue, text)
    except MissingData as error:
        raise NotFound(
            f"no owner is {text[:60]!r}: without a catalogue give the UUID, which `gmvaluator ledger totals --json` "
            "lists"
        ) from error


@click.group()
def owners() -> None:
    """List the owners of works, and show how many works one claims and the balance of its account.

    Example: gmvaluator owners list
    """


@owners.command("list")
@limit_option
@place_option
@json_option
def list_(limit: int, place: DataLocation, as_json: bool) -> None:
    """List the owners by name, with their UUIDs and the number of works that they claim.

    Example: gmvaluator owners list --json
    """
    from gmvaluator.catalogue.listing import list_owners
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.text import printable

    with open_catalogue(place) as catalogue:
        listed = list_owners(catalogue, limit)
    if as_json:
        click.echo(json.dumps({"owners": listed}))
        return
    for owner in listed:
        click.echo(f"{owner['owner_id']}  {owner['works']:>7,} works  {printable(owner['display_name'])}")
    if not listed:
        click.echo("no owner is recorded: name owners in a manifest, or by `gmvaluator rights import`")


@owners.command()
@click.argument("owner")
@place_option
@json_option
def show(owner: str, place: DataLocation, as_json: bool) -> None:
    """Show OWNER (a UUID, a manifest's owner_id or a name): works claimed, and the balance in the ledger.

    Example: gmvaluator owners show ada
    """
    from gmvaluator.catalogue.listing import owner_summary
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.text import printable
    from gmvaluator.valuation.weights import credits_text

    owner_id = owner_argument(owner, place)
    with open_catalogue(place) as catalogue:
        summary = owner_summary(catalogue, owner_id)
    balance = _balance(owner_id, place)
    if as_json:
        click.echo(json.dumps({**summary, "balance_micros": balance}))
        return
    click.echo(f"{printable(summary['display_name'])}  {summary['owner_id']}")
    forgotten = f", forgotten {summary['forgotten_at']}" if summary["forgotten_at"] else ""
    click.echo(f"recorded {summary['recorded_at']}{forgotten}; claims {summary['works']:,} works")
    click.echo("the ledger has no account of it" if balance is None else f"balance {credits_text(balance)} credits")


def _balance(owner_id: OwnerId, place: DataLocation) -> int | None:
    """Return the owner's balance in micro-credits; None without a ledger or an account in it."""
    from gmvaluator.ledger.store import open_ledger

    try:
        with open_ledger(place) as book:
            page: Any = book.balance(owner_account(owner_id))
    except MissingData:
        return None
    return page.balances[0].balance_micros if page.balances else None
