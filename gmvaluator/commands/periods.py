"""`gmvaluator ledger close|checkpoint|public-key|statement`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from gmvaluator.commands.confirmation import Confirmation, confirmation_options
from gmvaluator.commands.options import json_option, place_option
from gmvaluator.commands.owners import owner_argument
from gmvaluator.commands.parameters import ANY_PATH, FILE
from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from gmvaluator.ledger.payouts.closing import Check, Closed
    from gmvaluator.ledger.payouts.statement import Statement
    from gmvaluator.ledger.payouts.terms import Terms

FORMATS = ("text", "csv", "json", "html")
"""Formats of a statement; the files of ALL have all but the first."""


@click.command()
@click.argument("period")
@click.option("--currency", required=True, help="Currency as three letters, ISO 4217.")
@click.option(
    "--minor-digits",
    type=click.IntRange(0, 4),
    help="Decimals of the minor unit, only for a code that ISO 4217 gives none.",
)
@click.option("--rate", help="Money for one credit, such as 0.25; default: divide the pool.")
@click.option("--pool", help="Most money that all owners share, such as 1000.00.")
@click.option("--threshold", default="0", show_default=True, help="Credits below which a balance is carried over.")
@click.option("--carry-disputes", is_flag=True, help="Close with open disputes; their credits stay held.")
@click.option(
    "--confirm-over", is_flag=True, help="Close although nothing was posted after PERIOD: the clock is right."
)
@confirmation_options
@place_option
@json_option
def close(
    period: str,
    currency: str,
    minor_digits: int | None,
    rate: str | None,
    pool: str | None,
    threshold: str,
    carry_disputes: bool,
    confirm_over: bool,
    confirmation: Confirmation,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Close PERIOD on the given terms and sign its checkpoint.

    The ledger must be balanced and verified, and nothing may be pending; otherwise the exit code is 1.

    Example: gmvaluator ledger close 2026-10 --currency EUR --rate 0.25 --pool 1000 --threshold 10
    """
    from gmvaluator.auth.signing import Signer
    from gmvaluator.catalogue.store import KEY_FOLDER, open_if_present
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.payouts.closing import NotClosable, closing_digits
    from gmvaluator.ledger.payouts.closing import close as close_period
    from gmvaluator.ledger.payouts.terms import Terms
    from gmvaluator.ledger.store import decision_time, open_ledger

    month = Period.parse(period)
    with (
        TemporaryDirectory() as scratch,
        open_ledger(place, write=True, create=False) as book,
        open_if_present(place) as rights,
    ):
        with book.snapshot() as connection:
            digits = closing_digits(connection, month, currency, minor_digits)
        terms = Terms.parse(currency, digits, rate, pool, threshold)

        def decide() -> Closed:
            # The first signature makes the key, which a closing that is undone must not leave behind.
            signer = Signer(Path(scratch) if book.rehearsing else place.folder / KEY_FOLDER)
            return close_period(book, month, terms, signer, rights, decision_time(), carry_disputes, confirm_over)

        try:
            closed = confirmation.decide(book, place, decide, lambda closed: _describe_closing(period, closed))
        except NotClosable as error:
            _show_checks(error.checks, period, as_json)
            raise Exit(1) from None
    _print_closed(period, closed, confirmation.dry_run, as_json)


@click.command()
@click.argument("period")
@click.option("--out", type=FILE, help="File to write instead of stdout.")
@place_option
def checkpoint(period: str, out: Path | None, place: DataLocation) -> None:
    """Print the signed checkpoint of PERIOD, to be saved outside the data folder for `ledger verify --checkpoint`.

    Example: gmvaluator ledger checkpoint 2026-10 --out checkpoint-2026-10.json
    """
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.checkpoints import read_checkpoint
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book, book.snapshot() as connection:
        text = json.dumps(read_checkpoint(connection, str(Period.parse(period))).as_dict(), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@click.command("public-key")
@place_option
@json_option
def public_key(place: DataLocation, as_json: bool) -> None:
    """Print the public key of the signatures on checkpoints and receipts, for those who verify them.

    Example: gmvaluator ledger public-key
    """
    from gmvaluator.auth.signing import Signer
    from gmvaluator.catalogue.store import KEY_FOLDER

    key = Signer(place.folder / KEY_FOLDER).public_key()
    click.echo(json.dumps({"public_key": key, "algorithm": "Ed25519"}) if as_json else key)


def _print_closed(period: str, closed: Closed, dry_run: bool, as_json: bool) -> None:
    plain = _plain_closing(period, closed)
    if as_json:
        # A closing that was undone has no posting.
        posted = {"checkpoint": closed.checkpoint.as_dict()}
        undone = {"closed": False, "sequence": None, "hash": None}
        click.echo(json.dumps({**plain, **(undone if dry_run else posted), "dry_run": dry_run}))
        return
    _show_checks(closed.checks, period, as_json=False)
    if dry_run:
        click.echo(f"{_describe_closing(period, closed)[0]}; nothing was posted")
        return
    money = _closing_terms(closed).money_text(plain["payable_minor"])
    click.echo(
        f"period {period} is closed with posting {plain['sequence']}: {money} payable to {plain['payees']:,} owners; "
        "save its checkpoint elsewhere (`gmvaluator ledger checkpoint`)"
    )


def _describe_closing(period: str, closed: Closed) -> list[str]:
    plain, terms = _plain_closing(period, closed), _closing_terms(closed)
    return [
        f"closing {period} makes {terms.money_text(plain['payable_minor'])} payable to {plain['payees']:,} owners "
        f"(rate {terms.rate_text()}), and fixes its terms and balances"
    ]


def _closing_terms(closed: Closed) -> Terms:
    from gmvaluator.ledger.payouts.terms import Terms

    return Terms.from_dict(closed.closing.decision.facts["terms"])


def _plain_closing(period: str, closed: Closed) -> dict[str, Any]:
    facts = closed.closing.decision.facts
    return {
        "period": period,
        "closed": True,
        "sequence": closed.closing.posting.sequence,
        "hash": closed.closing.posting.hash,
        "terms": facts["terms"],
        "balances": facts["balances"],
        "payees": len(facts["payable"]),
        "payable_micros": sum(line[1] for line in facts["payable"]),
        "payable_minor": sum(line[2] for line in facts["payable"]),
        "checks": [_plain_check(check) for check in closed.checks],
    }


def _show_checks(checks: Sequence[Check], period: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"period": period, "closed": False, "checks": [_plain_check(check) for check in checks]}))
        return
    for check in checks:
        click.echo(f"{'yes' if check.ok else 'NO '}  {check.name}: {check.detail}")


def _plain_check(check: Check) -> dict[str, Any]:
    return {"name": check.name, "ok": check.ok, "detail": check.detail}


@click.command()
@click.argument("owner")
@click.argument("period")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Format to print; default: text.")
@click.option("--out", type=ANY_PATH, help="File to write; a folder for ALL.")
@place_option
@json_option
def statement(owner: str, period: str, form: str | None, out: Path | None, place: DataLocation, as_json: bool) -> None:
    """Print the royalty statement of OWNER (a UUID, a manifest's owner_id or a name) for PERIOD.

    OWNER may be ALL, which writes the statements of all owners as CSV, JSON and HTML files to the folder of --out.

    Example: gmvaluator ledger statement ada 2026-10 --format html --out statement.html
    """
    from gmvaluator.catalogue.store import open_if_present
    from gmvaluator.ledger.calendar import Period
    from gmvaluator.ledger.payouts.statement import statements
    from gmvaluator.ledger.store import open_ledger

    month = Period.parse(period)
    if as_json and form not in (None, "json"):
        raise InvalidInput(f"--format {form} and --json contradict each other: give one of them")
    if owner == "ALL":
        if form is not None:
            raise InvalidInput("statement ALL writes every format: leave --format out")
        if out is None:
            raise InvalidInput("statement ALL needs --out FOLDER")
        with open_ledger(place) as book, open_if_present(place) as names:
            written = _write_all(statements(book, month, names), out)
        click.echo(json.dumps({"statements": written, "folder": str(out)}) if as_json else f"{written:,} statements")
        return
    with open_ledger(place) as book, open_if_present(place) as names:
        (statement,) = statements(book, month, names, owner_argument(owner, place))
        form = "json" if as_json else form or "text"
        text = _text(statement, form)
    if out is None:
        # A statement is the same bytes wherever it is exported; only text is for the terminal, in its encoding.
        click.echo(text if form == "text" else text.encode(), nl=False)
    else:
        _write(out, text)


def _write_all(statements: Iterable[Statement], folder: Path) -> int:
    """Write each statement in every format but text; return the number of statements."""
    written = 0
    folder.mkdir(parents=True, exist_ok=True)
    for statement in statements:
        for form in FORMATS[1:]:
            _write(folder / f"{statement.period}-{statement.owner_id}.{form}", _text(statement, form))
        written += 1
    return written


def _text(statement: Statement, form: str) -> str:
    from gmvaluator.ledger.payouts.statement_formats import (
        statement_csv,
        statement_json,
        statement_page,
        statement_text,
    )

    forms = {"csv": statement_csv, "json": statement_json, "html": statement_page, "text": statement_text}
    return forms[form](statement)


def _write(file: Path, text: str) -> None:
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        raise PreconditionFailed(f"{file} cannot be written ({error.strerror}): name another by --out") from error
