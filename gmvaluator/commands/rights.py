"""`gmvaluator rights import|show|forget|backup`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from gmvaluator.accounts import owner_account
from gmvaluator.commands.confirmation import Confirmation, confirmation_options
from gmvaluator.commands.options import json_option, place_option
from gmvaluator.commands.parameters import FILE
from gmvaluator.commands.postings import instant
from gmvaluator.errors import MissingData, PreconditionFailed
from gmvaluator.files import atomic_write, private_folder
from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from gmvaluator.catalogue.claims_import import ClaimRow, ImportedClaims, RejectedRow
    from gmvaluator.catalogue.reader import CatalogueReader
    from gmvaluator.catalogue.store import Catalogue

_SHOWN_REJECTS = 20
"""Maximum number of rejected lines that `rights import` prints without --json."""

_LISTED_REJECTS = 100
"""Maximum number of rejected lines that `rights import` prints with --json."""


@click.group()
def rights() -> None:
    """Record who owns which work, with which share, from when to when.

    Example: gmvaluator rights show 1f0c... --json
    """


@rights.command("import")
@click.argument("file", type=FILE)
@click.option("--origin", help="Origin of rows that name none; default: rights:FILE.")
@click.option("--partial", is_flag=True, help="Allow shares that sum to less than one; the rest goes to suspense.")
@click.option("--release", is_flag=True, help="Then release credits in suspense and held to the owners now known.")
@confirmation_options
@place_option
@json_option
def import_(
    file: Path,
    origin: str | None,
    partial: bool,
    release: bool,
    confirmation: Confirmation,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Import rights from a CSV FILE.

    A row replaces the claim of the same work, owner, origin and valid_from. Columns: sha256 (or data_set and key),
    owner_id, share_ppm (0 withdraws the claim); optional: owner_name, owner_contact, valid_from, valid_to, origin.

    Only what --release posts cannot be taken back: on a terminal it is shown and confirmed first. With --dry-run
    nothing is imported either.

    Example: gmvaluator rights import rights.csv --release
    """
    from gmvaluator.catalogue.claims_import import checked_origin, read_claims
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.ledger.store import has_ledger

    source = checked_origin(origin if origin is not None else f"rights:{file.stem}"[:200])
    rows = list(read_claims(file, source))
    releasing = release and has_ledger(place)
    with (
        open_catalogue(place, write=True, create=False) as catalogue,
        _imported(catalogue, rows, partial, confirmation) as (imported, after),
    ):
        result = _import_result(file, imported, len(after.held_works(imported.works)), confirmation.dry_run, place)
        if not as_json:
            _print_import(result)
        refused = False
        if releasing:
            try:
                result["released"] = _release(place, after, f"rights imported from {file.name}", confirmation)
            except Exit:
                result["released"], refused = None, True
        elif release:
            result["released"] = None
    if as_json:
        click.echo(json.dumps(result))
    elif releasing and not refused:
        _print_released(result["released"], confirmation.dry_run)
    elif release and not releasing:
        click.echo("nothing is there to release: there is no ledger yet")
    if refused:
        raise Exit(1)
    if result["rejected"] == result["rows"]:
        what = "every row was rejected" if result["rows"] else "the file has no row below its header"
        click.echo(f"gmvaluator: nothing was imported from {file}: {what}", err=True)
        sys.exit(1)


@contextmanager
def _imported(
    catalogue: Catalogue, rows: Sequence[ClaimRow | RejectedRow], partial: bool, confirmation: Confirmation
) -> Iterator[tuple[ImportedClaims, CatalogueReader]]:
    """Import rows, or with --dry-run undo that at the end of the block; yield the counts and the catalogue then."""
    if confirmation.dry_run:
        with catalogue.rehearsed_import(rows, partial) as rehearsed:
            yield rehearsed
    else:
        yield catalogue.import_claims(rows, partial), catalogue


def _import_result(
    file: Path, imported: ImportedClaims, held: int, dry_run: bool, place: DataLocation
) -> dict[str, Any]:
    """Return the result of an import, with the first rejected rows, and the file that lists all of them."""
    result: dict[str, Any] = {"file": str(file), "dry_run": dry_run, **imported.as_dict(), "held": held}
    rejects = result["rejects"]
    rejected_file = place.folder / "left-out" / "rights.rejected.jsonl"
    rejected_file.unlink(missing_ok=True)
    if rejects:
        private_folder(rejected_file.parent)
        lines = "".join(f"{json.dumps(reject)}\n" for reject in rejects)
        atomic_write(rejected_file, lines, mode=0o600, durable=False)
    return {**result, "rejects": rejects[:_LISTED_REJECTS], "rejects_file": str(rejected_file) if rejects else None}


@rights.command()
@click.argument("work")
@click.option("--data-set", help="Data set of the key, if several use the key.")
@click.option("--at", help="Time to show, such as 2026-11-01T12:00:00+00:00; default: now.")
@place_option
@json_option
def show(work: str, data_set: str | None, at: str | None, place: DataLocation, as_json: bool) -> None:
    """Show who claims WORK (an id, a SHA-256, the beginning of one, or a key), who claimed it before, and who is paid.

    Example: gmvaluator rights show animals/dove --at 2026-01-01T00:00:00+00:00
    """
    from gmvaluator.catalogue.search import find_work, rights_as_dict
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place) as catalogue:
        shown = rights_as_dict(
            catalogue, find_work(catalogue, work, data_set), instant("--at", at) or datetime.now(UTC)
        )
    if as_json:
        click.echo(json.dumps(shown))
    else:
        _print_rights(shown)


@rights.command()
@click.argument("owner")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--in-advance", is_flag=True, help="OWNER is a manifest id that is not known: keep it out of imports.")
@place_option
@json_option
def forget(owner: str, yes: bool, in_advance: bool, place: DataLocation, as_json: bool) -> None:
    """Erase the name, contact and manifest id of OWNER permanently, in backups too, and print a signed receipt.

    OWNER is a UUID, a manifest's owner_id or a name. Sums, shares and the ledger's chain stay as they are. No later
    import records the owner again: a keyed hash of the manifest id is kept for that. This cannot be undone.

    Example: gmvaluator rights forget 5a1e0c3b-0000-4000-8000-000000000001 --yes
    """
    from gmvaluator.catalogue.erasure import erase_owner
    from gmvaluator.catalogue.listing import find_owner
    from gmvaluator.catalogue.store import open_catalogue

    if in_advance:
        _keep_out(place, owner, as_json)
        return
    with open_catalogue(place) as existing:
        owner_id = find_owner(existing, owner)
    if not yes:
        click.confirm(f"Forget owner {owner_id} permanently?", abort=True, err=True)
    with open_catalogue(place, write=True) as catalogue:
        signed = erase_owner(catalogue, owner_id, place.folder, _ledger_state(place, owner_account(owner_id)))
    receipt = signed.value
    if as_json:
        click.echo(json.dumps({**receipt, "receipt": signed.as_dict()}))
        return
    log = "" if receipt["log_emptied"] else "; a reader kept the log from being emptied, which the next writer does"
    click.echo(
        f"owner {owner_id} is forgotten: {receipt['references_removed']} references removed, the key destroyed, "
        f"the database rewritten{log}; receipt in {place.folder / 'receipts'}"
    )


@rights.command()
@click.argument("file", type=FILE)
@place_option
@json_option
def backup(file: Path, place: DataLocation, as_json: bool) -> None:
    """Copy the catalogue into the new FILE, even while it is written to.

    Names in the copy can be read only with the keys in DATA/keys.

    Example: gmvaluator rights backup /backups/catalogue-2026-11-22.sqlite
    """
    from gmvaluator.catalogue.store import FILE_NAME
    from gmvaluator.storage.sqlite import back_up

    if place.database_url:
        raise PreconditionFailed("this catalogue is on PostgreSQL: back it up by `pg_dump --schema=catalogue`")
    size_bytes = back_up(place.folder / FILE_NAME, file)
    result = {"file": str(file), "size_bytes": size_bytes}
    click.echo(json.dumps(result) if as_json else f"{file}: {size_bytes:,} bytes")


def _release(place: DataLocation, rights: CatalogueReader, reason: str, confirmation: Confirmation) -> dict[str, int]:
    """Release credits whose owners are known now. Exits with 1 if the answer to the question is no."""
    from gmvaluator.ledger.decisions.release import Release, release_all
    from gmvaluator.ledger.store import decision_time, open_ledger

    dry_run = confirmation.dry_run
    with open_ledger(place, write=not dry_run, create=False) as book:

        def decide() -> list[Release]:
            return list(release_all(book, rights, reason, decision_time(), dry_run))

        releases = decide() if dry_run else confirmation.decide(book, place, decide)
    entries = [entry for release in releases for entry in release.decision.entries]
    moved = sum(-entry.amount_micros for entry in entries if entry.amount_micros < 0)
    return {"generations": len(releases), "moved_micros": moved}


def _keep_out(place: DataLocation, manifest_id: str, as_json: bool) -> None:
    """Keep an owner who is not known out of imports, as one who was erased in a backup or by an older version."""
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place, write=True, create=False) as catalogue:
        catalogue.keep_owner_out(manifest_id)
    click.echo(json.dumps({"kept_out": True}) if as_json else "no import will record an owner with this id")


def _ledger_state(place: DataLocation, account: str) -> dict[str, Any] | None:
    """Return the ledger's head and an account's balance for the receipt; None if there is no ledger."""
    from gmvaluator.ledger.reader import read_balance
    from gmvaluator.ledger.store import open_ledger

    try:
        with open_ledger(place) as book:
            head = book.head()
            with book.snapshot() as connection:
                return {
                    "sequence": head.sequence,
                    "hash": head.hash,
                    "balance_micros": read_balance(connection, account),
                }
    except MissingData:
        return None


def _print_import(result: dict[str, Any]) -> None:
    from gmvaluator.text import printable

    for reject in result["rejects"][:_SHOWN_REJECTS]:
        click.echo(f"line {reject['line']}: {printable(reject['reason'])}", err=True)
    if result["rejected"] > _SHOWN_REJECTS:
        click.echo(
            f"... and {result['rejected'] - _SHOWN_REJECTS:,} more: see {printable(result['rejects_file'])}", err=True
        )
    names = ("added", "changed", "unchanged", "withdrawn", "rejected")
    what = " (dry run: nothing was imported)" if result["dry_run"] else ""
    click.echo(f"{result['rows']:,} rows = " + " + ".join(f"{result[name]:,} {name}" for name in names) + what)
    if result["held"]:
        click.echo(
            f"{result['held']:,} of these works are now held: claims compete (see `gmvaluator rights show WORK`). "
            "If this file corrects another one, import it with the origin of that one (--origin), with a row of "
            "share_ppm 0 for each claim that no longer holds"
        )


def _print_released(released: dict[str, int], dry_run: bool) -> None:
    what = "would release" if dry_run else "released"
    click.echo(f"{what} {released['moved_micros']:,} micro-credits of {released['generations']:,} generations")


def _print_rights(shown: dict[str, Any]) -> None:
    from rich.table import Table

    from gmvaluator.ledger.explain import plain_console
    from gmvaluator.text import printable

    console = plain_console()
    console.print(f"{printable(shown['title'] or shown['key'])} {shown['training_image_id']}", soft_wrap=True)
    for payee in shown["paid"]:
        console.print(
            f"paid at {shown['at']}: {printable(payee['display_name'])} {payee['share_ppm']:,} ppm", soft_wrap=True
        )
    table = Table("origin", "owner", "ppm", "from", "to", "replaced")
    for claim in [*shown["claims"], *shown["former_claims"]]:
        owner = f"{claim['display_name']} {claim['owner_id']}"
        times = (claim["valid_from"], claim["valid_to"], claim.get("replaced_at", ""))
        table.add_row(printable(claim["origin"]), printable(owner), f"{claim['share_ppm']:,}", *times)
    if table.rows:
        console.print(table)
