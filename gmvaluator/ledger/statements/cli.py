"""`gmvaluator ledger statement`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from gmvaluator.database.place import Place
from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.options import json_option, place_option

if TYPE_CHECKING:
    from gmvaluator.ledger.statements.statement import Statement

FORMATS = ("text", "csv", "json", "html")


@click.command()
@click.argument("owner")
@click.argument("period")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Form.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; with ALL a folder, of all forms.")
@place_option
@json_option
def statement(owner: str, period: str, form: str, out: Path | None, place: Place, as_json: bool) -> None:
    """Print the statement of OWNER, a UUID, for PERIOD; ALL writes every owner's as CSV, JSON and HTML.

    Example: gmvaluator ledger statement 5a1e0c3b-… 2026-10 --format html --out statement.html
    """
    from gmvaluator.ledger.corrections.near import rights_of
    from gmvaluator.ledger.periods.calendar import Period
    from gmvaluator.ledger.statements.owners import owner_argument
    from gmvaluator.ledger.statements.statement import statements
    from gmvaluator.ledger.store import open_ledger

    month, everyone = Period.parse(period), owner == "ALL"
    if everyone and out is None:
        raise InvalidInput("statement ALL needs --out FOLDER")
    with open_ledger(place) as book, rights_of(place) as names:
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
    from gmvaluator.ledger.statements.forms import statement_csv, statement_json, statement_text
    from gmvaluator.ledger.statements.page import statement_page

    forms = {"csv": statement_csv, "json": statement_json, "html": statement_page, "text": statement_text}
    return forms[form](one)


def _write(file: Path, text: str) -> None:
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        raise PreconditionFailed(f"{file} cannot be written ({error.strerror}): name another by --out") from error
