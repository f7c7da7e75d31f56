"""`gmvaluator ledger dispute open|hold|decide|list`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rich_click as click

from gmvaluator.commands.confirmation import Confirmation, confirmation_options
from gmvaluator.commands.corrections import identity_option, reason_option
from gmvaluator.commands.options import json_option, place_option
from gmvaluator.commands.owners import owner_argument
from gmvaluator.commands.postings import named_posting
from gmvaluator.errors import InvalidInput, MissingData, NotFound
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.database import DataLocation
from gmvaluator.valuation.weights import MILLION

if TYPE_CHECKING:
    from gmvaluator.ledger.decisions.disputes import Award, Dispute
    from gmvaluator.ledger.store import Ledger


@click.group()
def dispute() -> None:
    """Open and decide disputes about credits, and hold the disputed credits.

    Example: gmvaluator ledger dispute list
    """


@dispute.command("open")
@click.argument("dispute_id")
@click.option("--work", help="Training image whose credits are disputed: an id, SHA-256 or key.")
@click.option("--generation", help="Generation whose credits are disputed.")
@click.option("--claimant", help="Owner who claims the credits, a UUID or name; that owner's own credits are not held.")
@reason_option
@identity_option
@place_option
@json_option
def open_(
    dispute_id: str,
    work: str | None,
    generation: str | None,
    claimant: str | None,
    reason: str,
    identity: str | None,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Open a dispute and hold the credits that it is about.

    DISPUTE_ID is an id of your choice. Repeating the command holds credits that were posted since.

    Example: gmvaluator ledger dispute open case-7 --work 1f0c... --reason "drawn by me in 2019"
    """
    from gmvaluator.ledger.decisions.dispute_holds import open_dispute
    from gmvaluator.ledger.decisions.disputes import Scope
    from gmvaluator.ledger.store import decision_time, open_ledger

    if identity is not None and generation is None:
        raise InvalidInput("--identity tells generations of one id apart: give --generation too")
    disputed = None if work is None else _work(work, place)
    claims = None if claimant is None else owner_argument(claimant, place)
    with open_ledger(place, write=True, create=False) as book:
        sequence = None if generation is None else named_posting(book, generation, identity).sequence
        scope = Scope(disputed, sequence, claims)
        opened = open_dispute(book, dispute_id, scope, reason, decision_time())
    _show([opened], as_json)


@dispute.command()
@click.argument("dispute_id")
@place_option
@json_option
def hold(dispute_id: str, place: DataLocation, as_json: bool) -> None:
    """Hold credits of DISPUTE_ID that were posted since it was opened; closing a period and paying do this too.

    Example: gmvaluator ledger dispute hold case-7
    """
    from gmvaluator.ledger.decisions.dispute_holds import hold as hold_credits
    from gmvaluator.ledger.store import decision_time, open_ledger

    with open_ledger(place, write=True, create=False) as book:
        held = hold_credits(book, dispute_id, decision_time())
    _show([held], as_json)


@dispute.command()
@click.argument("dispute_ids", nargs=-1)
@click.option("--claimant", help="Decide every open dispute in this owner's name, a UUID.")
@click.option(
    "--award",
    "awards",
    multiple=True,
    metavar="OWNER[=PPM]",
    help="Owner who receives the credits; parts sum to 1,000,000.",
)
@click.option("--reject", is_flag=True, help="Return everything to the accounts it was held from.")
@reason_option
@confirmation_options
@place_option
@json_option
def decide(
    dispute_ids: tuple[str, ...],
    claimant: str | None,
    awards: tuple[str, ...],
    reject: bool,
    reason: str,
    confirmation: Confirmation,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Decide DISPUTE_IDS alike: award the held credits, or reject the disputes and return them.

    The rights for later credits are set by `gmvaluator rights import`.

    Example: gmvaluator ledger dispute decide case-7 --award 5a1e...=1000000 --reason "shown by the sketches"

    Example: gmvaluator ledger dispute decide --claimant 5a1e... --reject --reason "opened by a stolen token"
    """
    from gmvaluator.ledger.decisions.dispute_holds import decide_dispute
    from gmvaluator.ledger.decisions.disputes import checked_award
    from gmvaluator.ledger.store import decision_time, open_ledger

    if reject == bool(awards):
        raise InvalidInput("decide by --award, which may be repeated, or by --reject")
    if bool(dispute_ids) == bool(claimant):
        raise InvalidInput("name the disputes to decide, or all of one owner by --claimant")
    award = None if reject else checked_award([_part(text, place) for text in awards])
    with open_ledger(place, write=True, create=False) as book:
        chosen = _open_disputes(book, dispute_ids, None if claimant is None else owner_argument(claimant, place))

        def decision() -> list[Dispute]:
            return [decide_dispute(book, dispute_id, award, reason, decision_time()) for dispute_id in chosen]

        decided = confirmation.decide(book, place, decision, lambda _: [_verdict(name, award) for name in chosen])
    _show(decided, as_json, confirmation.dry_run)


def _open_disputes(book: Ledger, dispute_ids: Sequence[str], claimant: OwnerId | None) -> list[str]:
    """Return the disputes to decide, each once.

    Raises NotFound before any is decided, if one does not exist or the claimant has none that is open.
    """
    from gmvaluator.ledger.decisions.disputes import read_dispute, read_unsettled_disputes

    with book.snapshot() as connection:
        if claimant is None:
            return [read_dispute(connection, name).dispute_id for name in dict.fromkeys(dispute_ids)]
        unsettled = read_unsettled_disputes(connection)
    chosen = [entry.dispute_id for entry in unsettled if entry.open and entry.scope.claimant == claimant]
    if not chosen:
        raise NotFound(f"no open dispute is in the name of {claimant}: see `gmvaluator ledger dispute list --open`")
    return chosen


@dispute.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only disputes that are not settled.")
@place_option
@json_option
def list_(only_open: bool, place: DataLocation, as_json: bool) -> None:
    """List the disputes, the credits that they hold, and how they were decided.

    Example: gmvaluator ledger dispute list --open --json
    """
    from gmvaluator.ledger.decisions.disputes import read_disputes, read_unsettled_disputes
    from gmvaluator.ledger.store import open_ledger

    with open_ledger(place) as book, book.snapshot() as connection:
        listed = (read_unsettled_disputes if only_open else read_disputes)(connection)
    if as_json:
        click.echo(json.dumps({"disputes": [entry.as_dict() for entry in listed]}))
    else:
        _show(listed, as_json=False)
        if not listed:
            click.echo("no dispute")


def _verdict(dispute_id: str, award: Award | None) -> str:
    if award is None:
        return f"dispute {dispute_id} is rejected: what it holds goes back"
    parts = ", ".join(f"{account} {share:,} ppm" for account, share in award)
    return f"dispute {dispute_id} is upheld: what it holds goes to {parts}"


def _show(disputes: list[Dispute], as_json: bool, dry_run: bool = False) -> None:
    from gmvaluator.text import printable
    from gmvaluator.valuation.weights import credits_text

    for entry in disputes:
        plain = entry.as_dict()
        if as_json:
            click.echo(json.dumps({**plain, "dry_run": True} if dry_run else plain))
            continue
        about = plain["training_image_id"] or f"posting {plain['generation_sequence']}"
        click.echo(
            f"{plain['dispute_id']}: {plain['status']}, about {about}, holds {credits_text(plain['held_micros'])} "
            f"credits; {printable(plain['reason'])}{' (dry run: nothing was posted)' if dry_run else ''}"
        )


def _work(text: str, place: DataLocation) -> TrainingImageId:
    """Return the work that `text` names; without a catalogue only a UUID can name it. Raises NotFound, InvalidInput."""
    from gmvaluator.catalogue.search import find_work
    from gmvaluator.catalogue.store import open_catalogue

    try:
        return TrainingImageId(uuid.UUID(text))
    except ValueError:
        pass
    try:
        with open_catalogue(place) as catalogue:
            return find_work(catalogue, text)
    except MissingData:
        raise InvalidInput(f"{text[:60]!r} is not a training image's id: without a catalogue give a UUID") from None


def _part(text: str, place: DataLocation) -> tuple[OwnerId, int]:
    owner, equals, share = text.rpartition("=")
    if not equals:
        return owner_argument(text, place), MILLION
    if not (share.isascii() and share.isdigit() and len(share) <= 7):
        raise InvalidInput(f"--award {text[:60]!r} is refused: give OWNER=PPM, the part as a whole number")
    return owner_argument(owner, place), int(share)
