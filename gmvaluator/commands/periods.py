"""`gmvaluator ledger close|payout|checkpoint|public-key`.

`gmvaluator ledger statement`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from gmvaluator.commands.options import json_option, place_option
from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from gmvaluator.ledger.payouts.statement import Statement


@click.command()
@click.argument("period")
@click.option("--currency", required=True, help="Three letters, ISO 4217.")
@click.option("--minor-digits", type=click.IntRange(0, 4), default=2, show_default=True, help="Decimals of a coin.")
@click.option("--rate", help="Money for one credit, such as 0.25; without it the pool is divided.")
@click.option("--pool", help="Money that all owners share at most, such as 1000.00.")
@click.option("--threshold", default="0", show_default=True, help="Credits below which a balance is carried over.")
@click.option("--carry-disputes", is_flag=True, help="Close although disputes are open: what they hold stays held.")
@place_option
@json_option
def close(
    period: str,
    currency: str,
    minor_digits: int,
    rate: str | None,
    pool: str | None,
    threshold: str,
    carry_disputes: bool,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Close PERIOD on stated terms and sign it, if it is balanced, verified and nothing is pending; else exit 1.

    Example: gmvaluator ledger close 2026-10 --currency EUR --rate 0.25 --pool 1000 --threshold 10
    """
    from gmvaluator.auth.signing import Signer
    from gmvaluator.catalogue.store import KEY_FOLDER, open_if_present
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.payouts.closing import NotClosable
    from gmvaluator.ledger.payouts.closing import close as close_period
    from gmvaluator.ledger.payouts.terms import Terms, scaled_decimal
    from gmvaluator.ledger.store import decision_time, open_ledger

    month = Period.parse(period)
    terms = Terms(
        currency,
        minor_digits,
        None if rate is None else scaled_decimal(rate, minor_digits + 6, "the rate"),
        None if pool is None else scaled_decimal(pool, minor_digits, "the pool"),
        scaled_decimal(threshold, 6, "the threshold"),
    )
    with open_ledger(place, write=True) as book, open_if_present(place) as rights:
        try:
            signer = Signer(place.folder / KEY_FOLDER)
            done = close_period(book, month, terms, signer, rights, decision_time(), carry_disputes)
        except NotClosable as error:
            _show_checks(error.checks, period, as_json)
            raise Exit(1) from None
    if as_json:
        click.echo(json.dumps({**_closed(period, done), "checkpoint": done.checkpoint.as_dict()}))
    else:
        _show_checks(done.checks, period, as_json=False)
        found = _closed(period, done)
        click.echo(
            f"period {period} is closed with posting {found['sequence']}: {terms.money_text(found['payable_minor'])} "
            f"payable to {found['payees']:,} owners; keep its checkpoint elsewhere (`gmvaluator ledger checkpoint`)"
        )


@click.command()
@click.argument("period")
@click.option("--owner", help="Only this owner, a UUID.")
@click.option("--reason", default="paid out", show_default=True, help="Such as the transfer's reference.")
@place_option
@json_option
def payout(period: str, owner: str | None, reason: str, place: DataLocation, as_json: bool) -> None:
    """Post that what PERIOD made payable was paid, an entry to `paid` for each owner; again posts nothing.

    Exits 1 if an owner's balance has fallen below the amount since.

    Example: gmvaluator ledger payout 2026-10 --reason "SEPA batch 17"
    """
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.decision import checked_reason
    from gmvaluator.ledger.payouts.payouts import pay
    from gmvaluator.ledger.payouts.statement import owner_argument
    from gmvaluator.ledger.store import decision_time, open_ledger

    month, account = Period.parse(period), None if owner is None else f"owner:{owner_argument(owner)}"
    with open_ledger(place, write=True) as book:
        found = pay(book, month, checked_reason(reason), decision_time(), account)
    blocked = [one for one in found if one.status == "blocked"]
    if as_json:
        click.echo(json.dumps({"period": period, "payouts": [one.as_dict() for one in found]}))
    else:
        for one in blocked:
            click.echo(f"{one.account}: its balance has fallen below what {period} made payable; nothing was posted")
        posted = sum(one.status == "posted" for one in found)
        click.echo(f"{posted:,} payouts posted, {len(found) - posted - len(blocked):,} were posted before")
    if blocked:
        raise Exit(1)


@click.command()
@click.argument("period")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here instead of to stdout.")
@place_option
def checkpoint(period: str, out: Path | None, place: DataLocation) -> None:
    """Print the signed checkpoint of PERIOD, to be kept outside the data folder; `verify --checkpoint` reads it.

    Example: gmvaluator ledger checkpoint 2026-10 --out checkpoint-2026-10.json
    """
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.checkpoints import read_checkpoint
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book, book.snapshot() as connection:
        found = json.dumps(read_checkpoint(connection, str(Period.parse(period))).as_dict(), indent=2) + "\n"
    if out is None:
        click.echo(found, nl=False)
    else:
        out.write_text(found, encoding="utf-8")


@click.command("public-key")
@place_option
@json_option
def public_key(place: DataLocation, as_json: bool) -> None:
    """Print the public key that checkpoints and receipts are signed with, to be handed to those who check them.

    Example: gmvaluator ledger public-key
    """
    from gmvaluator.auth.signing import Signer
    from gmvaluator.catalogue.store import KEY_FOLDER

    found = Signer(place.folder / KEY_FOLDER).public_key()
    click.echo(json.dumps({"public_key": found, "algorithm": "Ed25519"}) if as_json else found)


def _closed(period: str, done: Any) -> dict[str, Any]:
    facts = done.closing.decision.facts
    return {
        "period": period,
        "closed": True,
        "sequence": done.closing.posting.sequence,
        "hash": done.closing.posting.hash,
        "terms": facts["terms"],
        "balances": facts["balances"],
        "payees": len(facts["payable"]),
        "payable_micros": sum(line[1] for line in facts["payable"]),
        "payable_minor": sum(line[2] for line in facts["payable"]),
        "checks": [_check(check) for check in done.checks],
    }


def _show_checks(checks: Any, period: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"period": period, "closed": False, "checks": [_check(check) for check in checks]}))
        return
    for check in checks:
        click.echo(f"{'yes' if check.ok else 'NO '}  {check.name}: {check.detail}")


def _check(check: Any) -> dict[str, Any]:
    return {"name": check.name, "ok": check.ok, "detail": check.detail}


FORMATS = ("text", "csv", "json", "html")


@click.command()
@click.argument("owner")
@click.argument("period")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Form.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; with ALL a folder, of all forms.")
@place_option
@json_option
def statement(owner: str, period: str, form: str, out: Path | None, place: DataLocation, as_json: bool) -> None:
    """Print the statement of OWNER, a UUID, for PERIOD; ALL writes every owner's as CSV, JSON and HTML.

    Example: gmvaluator ledger statement 5a1e0c3b-… 2026-10 --format html --out statement.html
    """
    from gmvaluator.catalogue.store import open_if_present
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.payouts.statement import owner_argument, statements
    from gmvaluator.ledger.store import open_ledger

    month, everyone = Period.parse(period), owner == "ALL"
    if everyone and out is None:
        raise InvalidInput("statement ALL needs --out FOLDER")
    with open_ledger(place) as book, open_if_present(place) as names:
        found = statements(book, month, names, None if everyone else owner_argument(owner))
        if everyone:
            assert out is not None
            written = _write_all(found, out)
        else:
            (one,) = found
            text = _text(one, "json" if as_json else form)
    if everyone:
        click.echo(json.dumps({"statements": written, "folder": str(out)}) if as_json else f"{written:,} statements")
    elif out is None:
        click.echo(text, nl=False)
    else:
        _write(out, text)


def _write_all(found: Iterable[Statement], folder: Path) -> int:
    written = 0
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        for form in FORMATS[1:]:
            _write(folder / f"{one.period}-{one.owner_id}.{form}", _text(one, form))
        written += 1
    return written


def _text(one: Statement, form: str) -> str:
    from gmvaluator.ledger.payouts.statement_formats import (
        statement_csv,
        statement_json,
        statement_page,
        statement_text,
    )

    forms = {"csv": statement_csv, "json": statement_json, "html": statement_page, "text": statement_text}
    return forms[form](one)


def _write(file: Path, text: str) -> None:
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        raise PreconditionFailed(f"{file} cannot be written ({error.strerror}): name another by --out") from error
