"""`gmvaluator ledger totals|list|explain|replay|verify|backup|export`, and the group with all other ledger commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from gmvaluator.accounts import owner_account
from gmvaluator.commands.corrections import compare, reattribute, release, reverse
from gmvaluator.commands.disputes import dispute
from gmvaluator.commands.options import json_option, limit_option, place_option
from gmvaluator.commands.owners import owner_argument
from gmvaluator.commands.parameters import FILE, FOLDER
from gmvaluator.commands.payouts import payout, payout_reference
from gmvaluator.commands.periods import checkpoint, close, public_key, statement
from gmvaluator.commands.postings import instant, named_posting
from gmvaluator.errors import Failure, InvalidInput, PreconditionFailed
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.storage.database import DataLocation
from gmvaluator.text import read_text

if TYPE_CHECKING:
    from gmvaluator.auth.signing import Signed
    from gmvaluator.ledger.records import StoredPosting
    from gmvaluator.ledger.store import Ledger

_HASH_DIGITS = 64
_MAX_CHECKPOINT_BYTES = 1_000_000
"""Hex digits of a whole hash."""


@click.command()
@click.argument("file", type=FILE)
@place_option
@json_option
def backup(file: Path, place: DataLocation, as_json: bool) -> None:
    """Copy the ledger into the new FILE, even while it is written to.

    To restore it, replace ledger.sqlite by the copy.

    Example: gmvaluator ledger backup /backups/ledger-2026-11-22.sqlite
    """
    from gmvaluator.ledger.store import ledger_file
    from gmvaluator.ledger.verification import check_backup
    from gmvaluator.storage.sqlite import back_up

    if place.database_url:
        raise PreconditionFailed("this ledger is on PostgreSQL: back it up by `pg_dump --schema=ledger`")
    size_bytes = back_up(ledger_file(place.folder), file)
    head = check_backup(file)
    if as_json:
        plain_head = {"sequence": head.sequence, "hash": head.hash}
        click.echo(json.dumps({"file": str(file), "size_bytes": size_bytes, "head": plain_head}))
    else:
        click.echo(f"{file}: {size_bytes:,} bytes, up to posting {head.sequence}:{head.hash}")


@click.command("export")
@click.option("--out", type=FOLDER, required=True, help="New or empty folder.")
@place_option
@json_option
def export_(out: Path, place: DataLocation, as_json: bool) -> None:
    """Export the ledger's tables as Parquet files from one consistent snapshot.

    Example: gmvaluator ledger export --out ./ledger-parquet
    """
    from gmvaluator.ledger.parquet_export import export
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book:
        exported = export(book, out)
    if as_json:
        click.echo(json.dumps(exported))
    else:
        for name, rows in exported["rows"].items():
            click.echo(f"{out / name}.parquet: {rows:,} rows")


@click.group()
def ledger() -> None:
    """Read, check, correct and pay out the credits.

    Example: gmvaluator ledger totals
    """


@ledger.command()
@place_option
@json_option
def totals(place: DataLocation, as_json: bool) -> None:
    """Print how many credits were issued, which accounts hold them, and whether they reconcile.

    The exit code is 1 if they do not reconcile.

    Example: gmvaluator ledger totals --json
    """
    from gmvaluator.ledger.explain import print_summary, summary
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book:
        result = summary(book, place)
    if as_json:
        click.echo(json.dumps(result))
    else:
        print_summary(result)
    if not result["reconciles"]:
        raise Exit(1)


@ledger.command("list")
@click.option("--owner", help="Only postings that moved this owner's credits: a UUID, a manifest's owner_id or a name.")
@click.option("--generator", help="Only generations of this model version.")
@click.option("--since", help="Only what was posted from this time on, such as 2026-11-01T00:00:00+00:00.")
@click.option("--until", help="Only what was posted before this time.")
@limit_option
@place_option
@json_option
def list_(
    owner: str | None,
    generator: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    place: DataLocation,
    as_json: bool,
) -> None:
    """List the postings, newest first: sequence, time, kind, credits issued and the generation's id.

    Example: gmvaluator ledger list --owner ada --since 2026-11-01T00:00:00+00:00
    """
    from gmvaluator.ledger.lookup import PostingFilter, list_postings
    from gmvaluator.ledger.store import open_ledger
    from gmvaluator.valuation.weights import credits_text

    account = None if owner is None else owner_account(owner_argument(owner, place))
    chosen = PostingFilter(account, generator, instant("--since", since), instant("--until", until))
    with open_ledger(place) as book, book.snapshot() as connection:
        listed = list_postings(connection, chosen, limit)
    if as_json:
        click.echo(json.dumps({"postings": listed}))
        return
    for row in listed:
        issued = credits_text(row["issued_micros"])
        start = f"{row['sequence']:>8}  {row['posted_at'][:19]}Z  {row['kind']:<11}  {issued:>10}"
        click.echo(f"{start}  {row['model_version'] or '-'}  {row['generation_id']}")
    if not listed:
        click.echo("no posting is listed: nothing was posted, or the filters let nothing through")


@ledger.command()
@click.argument("generation")
@click.option("--identity", help="Generator identity that posted it; needed only if several used this id.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Show contributors that earned a micro-credit or nothing, and all columns.",
)
@place_option
@json_option
def explain(generation: str, identity: str | None, everything: bool, place: DataLocation, as_json: bool) -> None:
    """Explain the credits of GENERATION: each contributor's distance, share and credit, and the policy.

    GENERATION is an id or its first characters, a sequence number, or the file that was attributed.

    Example: gmvaluator ledger explain demo-1:4f2a
    """
    from gmvaluator.ledger.explain import (
        decision_explanation,
        decisions_about,
        explanation,
        print_decision,
        print_explanation,
    )
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book:
        posting = named_posting(book, generation, identity)
        of_generation = posting.header.kind == ATTRIBUTION
        explained = explanation(posting, place) if of_generation else decision_explanation(posting)
        with book.snapshot() as connection:
            decisions = [decision_explanation(later) for later in decisions_about(connection, posting.sequence)]
    if as_json:
        click.echo(json.dumps({**explained, "decisions": decisions}))
        return
    if of_generation:
        print_explanation(explained, everything)
    else:
        print_decision(explained)
    for decision in decisions:
        print_decision(decision)


@ledger.command()
@click.argument("generation", required=False)
@click.option("--identity", help="Generator identity that posted it; needed only if several used this id.")
@place_option
@json_option
def replay(generation: str | None, identity: str | None, place: DataLocation, as_json: bool) -> None:
    """Recompute credits from the stored evidence and compare them, for GENERATION or for all postings.

    The exit code is 1 if any differ.

    Example: gmvaluator ledger replay --json
    """
    from gmvaluator.ledger.store import open_ledger
    from gmvaluator.ledger.verification import replay as recompute

    if identity is not None and generation is None:
        raise InvalidInput("--identity tells generations of one id apart: name GENERATION too")
    replayed, different = 0, []
    with open_ledger(place) as book:
        if generation is None:
            postings: Iterable[StoredPosting] = book.every_posting()
        else:
            postings = [named_posting(book, generation, identity)]
        for posting in postings:
            replayed += 1
            if not recompute(posting).equal:
                different.append({"sequence": posting.sequence, "generation_id": posting.header.generation_id})
    if as_json:
        click.echo(json.dumps({"replayed": replayed, "equal": replayed - len(different), "different": different}))
    else:
        for difference in different:
            click.echo(
                f"posting {difference['sequence']}, generation {difference['generation_id']}: "
                "the evidence gives other credits"
            )
        click.echo(
            f"{replayed - len(different):,} of {replayed:,} postings equal their evidence to the last micro-credit"
        )
    if different:
        raise Exit(1)


@ledger.command()
@click.option("--head", help="SEQUENCE:HASH saved earlier, as `attribute` prints it; the chain must still contain it.")
@click.option("--public-key", help="The operator's public key; checkpoints signed by another key are refused.")
@click.option(
    "--checkpoint",
    "kept",
    multiple=True,
    type=FILE,
    help="File of a checkpoint saved elsewhere; may be repeated.",
)
@click.option("--record", is_flag=True, help="Save the result in DATA, from where the attributor's metrics export it.")
@place_option
@json_option
def verify(
    head: str | None, public_key: str | None, kept: tuple[Path, ...], record: bool, place: DataLocation, as_json: bool
) -> None:
    """Verify every row, checkpoint, closing and payout, and name the first that is not as it must be.

    Rows must not be changed, removed, inserted or re-ordered; owners must be paid what closings made payable.

    The exit code is 1 if there is one.

    Example: gmvaluator ledger verify --head 42:9c0e...
    """
    from gmvaluator.auth.signing import checked_public_key
    from gmvaluator.ledger.payouts.audit import verify_with_payments
    from gmvaluator.ledger.results import Head
    from gmvaluator.ledger.store import open_ledger
    from gmvaluator.ledger.verification import record_verification

    named = None if head is None else _parse_head(head)
    key = None if public_key is None else checked_public_key(public_key)
    checkpoints = [_read_checkpoint(file) for file in kept]
    try:
        with open_ledger(place) as book:
            expected = None if named is None else Head(named[0], _full_hash(book, *named))
            result = verify_with_payments(book, expected, key, checkpoints)
    except Failure:
        # A ledger that cannot be read has to raise the alarm of one that fails, so that this is recorded as well.
        if record:
            record_verification(place.folder, None)
        raise
    if record:
        record_verification(place.folder, result)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
    else:
        click.echo(result.text())
    if not result.ok:
        raise Exit(1)


def _read_checkpoint(file: Path) -> Signed:
    from gmvaluator.auth.signing import Signed

    text = read_text(file, f"the checkpoint {file}", _MAX_CHECKPOINT_BYTES)
    try:
        return Signed.from_dict(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} is no checkpoint ({error}): write it by `gmvaluator ledger checkpoint`") from error


def _parse_head(text: str) -> tuple[int, str]:
    """Return the sequence, and the hash or its first digits. Raises InvalidInput."""
    # What a file saved by another program adds: a byte order mark and line ends.
    match = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{8,64})", text.strip("\ufeff \t\r\n"))
    if match is None:
        raise InvalidInput(f"--head {text[:90]!r} is refused: give SEQUENCE:HASH, at least 8 hex digits of the hash")
    return int(match[1]), match[2]


def _full_hash(book: Ledger, sequence: int, digits: str) -> str:
    """Return the hash of the posting if it begins with `digits`; else these, which verification then reports."""
    from gmvaluator.ledger.page_queries import posting_at

    if len(digits) == _HASH_DIGITS:
        return digits
    with book.snapshot() as connection:
        posting = posting_at(connection, sequence)
    return posting.hash if posting is not None and posting.hash.startswith(digits) else digits


for _command in (backup, checkpoint, close, compare, dispute, export_, payout):
    ledger.add_command(_command)
for _command in (payout_reference, public_key, reattribute, release, reverse, statement):
    ledger.add_command(_command)
