"""`ledger totals`: balances by kind of account, and by owner with names from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.credits import credits_text
from gmvaluator.database.place import Place
from gmvaluator.errors import MissingData
from gmvaluator.ids import OwnerId
from gmvaluator.ledger.answers import Balance
from gmvaluator.ledger.reader import MAX_PAGE, LedgerReader

_PIPE_COLUMNS = 250
_KINDS = ("owners", "unattributed", "suspense", "held", "paid")


def summary(ledger: LedgerReader, place: Path | Place) -> dict[str, Any]:
    """Totals and owners, the highest credit first, as plain data."""
    totals = ledger.totals()
    return {
        "issued_micros": totals.issued_micros,
        **{f"{kind}_micros": getattr(totals, f"{kind}_micros") for kind in _KINDS},
        "reconciles": totals.reconciles,
        "postings": totals.postings,
        "head": {"sequence": totals.head.sequence, "hash": totals.head.hash},
        "owners": sorted(_owners(ledger, place), key=lambda owner: (-owner["credit_micros"], owner["owner_id"])),
    }


def owner_names(place: Path | Place, owner_ids: Sequence[OwnerId]) -> dict[OwnerId, str]:
    """Names from the catalogue of the data folder; their accounts, where there is no catalogue."""
    try:
        with open_catalogue(place) as catalogue:
            return catalogue.display_names(owner_ids)
    except MissingData:
        return {owner_id: f"owner:{owner_id}" for owner_id in owner_ids}


def plain_console() -> Console:
    """A console that takes text as it is: names from a manifest must not be read as markup.

    Into a pipe or a file, tables are as wide as they need to be.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console


def printable(text: str) -> str:
    """`text` without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def print_summary(found: dict[str, Any]) -> None:
    """For people: credits with six decimals."""
    console = plain_console()
    owners = Table("owner", "works", "credits")
    owners.columns[1].justify = owners.columns[2].justify = "right"
    for owner in found["owners"]:
        owners.add_row(printable(owner["display_name"]), str(owner["works"]), credits_text(owner["credit_micros"]))
    if found["owners"]:
        console.print(owners)
    parts = " + ".join(f"{kind} {credits_text(found[f'{kind}_micros'])}" for kind in _KINDS)
    verdict = "reconciles" if found["reconciles"] else "DOES NOT RECONCILE: run `gmvaluator ledger verify`"
    console.print(f"{found['postings']:,} postings", soft_wrap=True)
    console.print(f"issued {credits_text(found['issued_micros'])} = {parts}: {verdict}", soft_wrap=True)


def _owners(ledger: LedgerReader, place: Path | Place) -> Iterator[dict[str, Any]]:
    page = ledger.owner_totals(limit=MAX_PAGE)
    while page.balances:
        yield from _described(ledger, place, page.balances)
        page = ledger.owner_totals(after=page.balances[-1].account, limit=MAX_PAGE)


def _described(ledger: LedgerReader, place: Path | Place, balances: Sequence[Balance]) -> Iterator[dict[str, Any]]:
    works = ledger.works_paid([balance.account for balance in balances])
    names = owner_names(place, [balance.owner_id for balance in balances if balance.owner_id is not None])
    for balance in balances:
        if balance.owner_id is not None:
            yield {
                "owner_id": str(balance.owner_id),
                "display_name": names[balance.owner_id],
                "credit_micros": balance.balance_micros,
                "works": works.get(balance.account, 0),
            }
