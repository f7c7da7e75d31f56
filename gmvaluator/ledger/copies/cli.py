"""`gmvaluator ledger backup|export`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from gmvaluator.database.place import Place
from gmvaluator.errors import PreconditionFailed
from gmvaluator.options import json_option, place_option


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@place_option
@json_option
def backup(file: Path, place: Place, as_json: bool) -> None:
    """Copy the ledger into the new FILE while it may be written; to restore it, put it in the place of ledger.sqlite.

    Example: gmvaluator ledger backup /backups/ledger-2026-11-22.sqlite
    """
    from gmvaluator.database.backup import back_up
    from gmvaluator.ledger.copies.checking import check_copy
    from gmvaluator.ledger.store import ledger_file

    if place.database_url:
        raise PreconditionFailed("this ledger is on PostgreSQL: back it up by `pg_dump --schema=ledger`")
    size_bytes = back_up(ledger_file(place.folder), file)
    head = check_copy(file)
    found = {"file": str(file), "size_bytes": size_bytes, "head": {"sequence": head.sequence, "hash": head.hash}}
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"{file}: {size_bytes:,} bytes, up to posting {head.sequence}:{head.hash}")


@click.command("export")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="New or empty folder.")
@place_option
@json_option
def export_(out: Path, place: Place, as_json: bool) -> None:
    """Write the ledger's tables as Parquet files, all of one moment.

    Example: gmvaluator ledger export --out ./ledger-parquet
    """
    from gmvaluator.ledger.copies.export import export
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book:
        found = export(book, out)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, rows in found["rows"].items():
            click.echo(f"{out / name}.parquet: {rows:,} rows")
