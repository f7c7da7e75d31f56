"""Explanations of the ledger for people and as plain data: totals, a generation's posting, and a decision.

`gmvaluator ledger totals` and `ledger explain` print them; names and titles come from the catalogue if there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, select

from gmvaluator.accounts import owner_account, owner_of
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import MissingData
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.ledger.decision import Decision
from gmvaluator.ledger.posting import content_of
from gmvaluator.ledger.reader import MAX_PAGE, LedgerReader, load_postings, postings_where
from gmvaluator.ledger.records import Contribution, Payment, StoredPosting
from gmvaluator.ledger.results import Balance
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.ledger.verification import replay
from gmvaluator.ports import WorkCard
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation, as_location
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.text import printable
from gmvaluator.valuation.parts import visible_share, visible_text
from gmvaluator.valuation.weights import MILLION, credits_text

_PIPE_COLUMNS = 250
"""Width of tables in a pipe or a file."""

MIN_SHOWN_MICROS = 2
"""Least credit of a contributor that is shown without being asked for everything."""

_COLUMNS = ("rank", "work", "paid to", "distance", "similarity", "share", "95 % interval", "credit")
_RARE_COLUMNS = ("similarity", "95 % interval")
"""Columns that a terminal of 80 characters has no room for."""

_KINDS = ("owners", "unattributed", "suspense", "held", "paid")


def summary(ledger: LedgerReader, location: Path | DataLocation) -> dict[str, Any]:
    """Return the totals and the owners, highest credit first, as plain data."""
    totals = ledger.totals()
    return {
        "issued_micros": totals.issued_micros,
        **{f"{kind}_micros": getattr(totals, f"{kind}_micros") for kind in _KINDS},
        "reconciles": totals.reconciles,
        "postings": totals.postings,
        "head": {"sequence": totals.head.sequence, "hash": totals.head.hash},
        "owners": sorted(_owners(ledger, location), key=lambda owner: (-owner["credit_micros"], owner["owner_id"])),
    }


def owner_names(location: Path | DataLocation, owner_ids: Sequence[OwnerId]) -> dict[OwnerId, str]:
    """Return the owners' names from the catalogue, or their accounts if there is no catalogue."""
    try:
        with open_catalogue(location) as catalogue:
            return catalogue.display_names(owner_ids)
    except MissingData:
        return {owner_id: owner_account(owner_id) for owner_id in owner_ids}


def plain_console() -> Console:
    """Return a console that prints text literally, with wide tables if its output is a pipe or a file."""
    # Names come from manifests: rich must not read them as markup.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console


def print_summary(totals: dict[str, Any]) -> None:
    """Print the result of `summary` for people; credits have six decimals."""
    console = plain_console()
    owners = Table("owner", "works", "credits")
    owners.columns[1].justify = owners.columns[2].justify = "right"
    for owner in totals["owners"]:
        owners.add_row(printable(owner["display_name"]), str(owner["works"]), credits_text(owner["credit_micros"]))
    if totals["owners"]:
        console.print(owners)
    parts = " + ".join(f"{kind} {credits_text(totals[f'{kind}_micros'])}" for kind in _KINDS)
    verdict = "reconciles" if totals["reconciles"] else "DOES NOT RECONCILE: run `gmvaluator ledger verify`"
    console.print(f"{totals['postings']:,} postings", soft_wrap=True)
    console.print(f"issued {credits_text(totals['issued_micros'])} = {parts}: {verdict}", soft_wrap=True)


def _owners(ledger: LedgerReader, location: Path | DataLocation) -> Iterator[dict[str, Any]]:
    page = ledger.owner_balances(limit=MAX_PAGE)
    while page.balances:
        yield from _described(ledger, location, page.balances)
        page = ledger.owner_balances(after=page.balances[-1].account, limit=MAX_PAGE)


def _described(
    ledger: LedgerReader, location: Path | DataLocation, balances: Sequence[Balance]
) -> Iterator[dict[str, Any]]:
    works = ledger.count_works_paid([balance.account for balance in balances])
    names = owner_names(location, [balance.owner_id for balance in balances if balance.owner_id is not None])
    for balance in balances:
        if balance.owner_id is not None:
            yield {
                "owner_id": str(balance.owner_id),
                "display_name": names[balance.owner_id],
                "credit_micros": balance.balance_micros,
                "works": works.get(balance.account, 0),
            }


def explanation(posting: StoredPosting, location: Path | DataLocation) -> dict[str, Any]:
    """Return a generation's posting as plain data: header, contributors with names, and the evidence as hashed."""
    cards, names = _cards(posting, location), _names(posting, location)
    data = as_location(location).folder
    contributions, content = posting.evidence.contributions, content_of(posting.evidence)
    return {
        **posting.header.as_dict(),
        "hash": posting.hash,
        "replay_equal": replay(posting).equal,
        "quality": posting.evidence.quality_millionths / MILLION,
        "unattributed_micros": posting.evidence.unattributed_micros,
        "contributors": [
            _contributor(contribution, content, cards.get(contribution.training_image_id), names, data)
            for contribution in contributions
        ],
        "evidence": json.loads(posting.evidence_json),
    }


def print_explanation(explained: dict[str, Any], everything: bool = False) -> None:
    """Print the result of `explanation` for people: what was valued and how, then a row for each contributor.

    Rows of a micro-credit or less, similarities and intervals are printed only if `everything` is set.
    """
    console = plain_console()
    contributors = explained["contributors"]
    shown = [row for row in contributors if everything or row["credit_micros"] >= MIN_SHOWN_MICROS]
    for line in _heading(explained):
        console.print(line, soft_wrap=True)
    if shown:
        console.print(_contributor_table(shown, everything))
    for line in _visible_lines(shown):
        console.print(line, soft_wrap=True)
    if len(shown) < len(contributors):
        console.print(
            f"{len(contributors) - len(shown):,} more earned a micro-credit or nothing: --all shows them",
            soft_wrap=True,
        )
    same = (
        "gives the same credits" if explained["replay_equal"] else "GIVES OTHER CREDITS: run `gmvaluator ledger verify`"
    )
    console.print(f"Computing it again from this evidence {same}.", soft_wrap=True)


def _contributor_table(contributors: Sequence[dict[str, Any]], everything: bool) -> Table:
    columns = _COLUMNS if everything else tuple(name for name in _COLUMNS if name not in _RARE_COLUMNS)
    table = Table(*columns)
    for column in table.columns:
        column.justify = "left" if column.header in ("work", "paid to") else "right"
    for contributor in contributors:
        cells = _cells(contributor)
        table.add_row(*(printable(cells[name]) for name in columns))
    return table


def _visible_lines(contributors: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each verified work, which names its rank as the table does."""
    for contributor in contributors:
        if visible := contributor["visible"]:
            yield f"rank {contributor['rank']}: {visible_text(visible['image_share'], visible['inliers'])}"


def _heading(explained: dict[str, Any]) -> list[str]:
    evidence = explained["evidence"]
    image, policy = evidence["image"], evidence["policy"]
    settings = ", ".join(f"{name} {value}" for name, value in policy.items() if name not in ("policy", "uncertainty"))
    return [
        f"Posting {explained['sequence']}: generation {explained['generation_id']} of {explained['model_version']}, "
        f"requested by {explained['generator_identity']}",
        f"generated {explained['generated_at']}, posted {explained['posted_at']}",
        f"image {image['width']}x{image['height']}, {image['size_bytes']:,} bytes, SHA-256 {image['sha256']}"
        + (", embedded by the client itself" if evidence.get("embedded_by") else ""),
        f"policy {policy['policy']} ({settings}); profile {evidence['profile']} {evidence['profile_hash'][:12]}; "
        f"collection {evidence['collection']}",
        f"quality {explained['quality']:.6f}: issued {credits_text(explained['issued_micros'])} credits, "
        f"{credits_text(explained['unattributed_micros'])} of them unattributed{_interval_text(evidence)}",
    ]


def _interval_text(evidence: dict[str, Any]) -> str:
    if "uncertainty" not in evidence:
        return ""
    low, high = (bound / MILLION for bound in evidence["uncertainty"]["unattributed"])
    return f" (a share of {low:.2%}-{high:.2%})"


def _cells(contributor: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a contributor's row, by `_COLUMNS`."""
    payees = ", ".join(payment["display_name"] for payment in contributor["payments"])
    if contributor["held_for"]:
        payees += f" (too uncertain to pay {', '.join(right['display_name'] for right in contributor['held_for'])})"
    if contributor["competing"]:
        payees += " (competes: a near-duplicate was claimed earlier)"
    interval = contributor["share_interval"]
    return {
        "rank": str(contributor["rank"]),
        "work": contributor["key"] or contributor["training_image_id"],
        "paid to": payees,
        "distance": f"{contributor['distance_millionths'] / MILLION:.6f}",
        "similarity": f"{contributor['clip_similarity_millionths'] / MILLION:.6f}",
        "share": f"{contributor['share']:.4%}",
        "95 % interval": "" if interval is None else f"{interval[0]:.2%}-{interval[1]:.2%}",
        "credit": credits_text(contributor["credit_micros"]),
    }


def _contributor(
    contribution: Contribution, content: int | None, card: WorkCard | None, names: Mapping[str, str], data: Path
) -> dict[str, Any]:
    thumbnail = thumbnail_path(thumbnails_folder(data), contribution.training_image_id)
    return {
        "rank": contribution.rank,
        "training_image_id": str(contribution.training_image_id),
        "key": card.key if card else "",
        "title": card.title if card else "",
        "distance_millionths": contribution.distance_millionths,
        "clip_similarity_millionths": contribution.clip_similarity_millionths,
        "share": contribution.share,
        "credit_micros": contribution.credit_micros,
        "payments": [_payment(payment, names) for payment in contribution.payments],
        "duplicate_group": None if contribution.group is None else str(contribution.group),
        "competing": contribution.competing,
        "share_interval": None
        if contribution.interval is None
        else [bound / MILLION for bound in contribution.interval],
        "held_for": None
        if contribution.held_for is None
        else [_holder(*right, names) for right in contribution.held_for],
        "visible": _visible(contribution, content),
        "thumbnail": str(thumbnail) if thumbnail.is_file() else None,
    }


def _visible(contribution: Contribution, content: int | None) -> dict[str, Any] | None:
    """Return where the work was verified, with masks as the evidence has them; None if it was not.

    image_share: share of the image's cells that show anything.
    """
    sighting = contribution.sighting
    if not sighting.inliers or content is None:
        return None
    return {
        "inliers": sighting.inliers,
        "image_share": visible_share(sighting.region, content),
        "region": contribution.region,
        "work_region": contribution.work_region,
    }


def _payment(payment: Payment, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "account": payment.account,
        "display_name": names.get(payment.account, payment.account),
        "share_ppm": payment.share_ppm,
        "credit_micros": payment.credit_micros,
    }


def _holder(account: str, share_ppm: int, names: Mapping[str, str]) -> dict[str, Any]:
    return {"account": account, "display_name": names.get(account, account), "share_ppm": share_ppm}


def _cards(posting: StoredPosting, location: Path | DataLocation) -> dict[TrainingImageId, WorkCard]:
    works = [contribution.training_image_id for contribution in posting.evidence.contributions]
    try:
        with open_catalogue(location) as catalogue:
            return catalogue.works(works, from_utc_text(posting.header.generated_at))
    except MissingData:
        return {}


def _names(posting: StoredPosting, location: Path | DataLocation) -> dict[str, str]:
    """Return account to name for the owners that the posting paid or held credit for, not those of today."""
    accounts = {
        account
        for contribution in posting.evidence.contributions
        for account in (
            *(account for account, _ in contribution.rights),
            *(payment.account for payment in contribution.payments),
        )
    }
    owners = [owner_id for account in accounts if (owner_id := owner_of(account)) is not None]
    return {owner_account(owner_id): name for owner_id, name in owner_names(location, owners).items()}


def decisions_about(connection: Connection, sequence: int) -> list[StoredPosting]:
    """Return the decisions that moved amounts of a posting, in order."""
    sequences = select(decisions.c.sequence).where(decisions.c.about_sequence == sequence)
    return load_postings(connection, postings_where(postings.c.sequence.in_(sequences)).order_by(postings.c.sequence))


def decision_explanation(posting: StoredPosting) -> dict[str, Any]:
    """Return a decision's posting as plain data: header, reason, references, facts and entries."""
    decision = Decision.from_json(posting.evidence_json)
    return {
        **posting.header.as_dict(),
        "hash": posting.hash,
        "replay_equal": replay(posting).equal,
        "reason": decision.reason,
        **decision.links.as_dict(),
        "facts": dict(decision.facts),
        "entries": [
            {
                "account": entry.account,
                "training_image_id": None if entry.training_image_id is None else str(entry.training_image_id),
                "amount_micros": entry.amount_micros,
            }
            for entry in posting.entries
        ],
    }


def print_decision(explained: dict[str, Any]) -> None:
    """Print the result of `decision_explanation` for people: the decision, then the amounts that it moved."""
    console = plain_console()
    links = [f"{name.replace('_', ' ')} {explained[name]}" for name in ("about_sequence", "dispute_id", "period")]
    shown = [text for text in links if not text.endswith(" None")]
    console.print(f"Posting {explained['sequence']}: {explained['kind']} {explained['generation_id']}", soft_wrap=True)
    console.print(f"decided {explained['generated_at']}; {', '.join(shown) or 'linked to nothing'}", soft_wrap=True)
    console.print(f"reason: {printable(explained['reason'])}", soft_wrap=True)
    table = Table("account", "work", "moved")
    table.columns[2].justify = "right"
    for entry in explained["entries"]:
        amount = credits_text(entry["amount_micros"])
        table.add_row(printable(entry["account"]), entry["training_image_id"] or "", amount)
    if explained["entries"]:
        console.print(table)
    same = (
        "gives the same amounts" if explained["replay_equal"] else "GIVES OTHER AMOUNTS: run `gmvaluator ledger verify`"
    )
    console.print(f"Computing it again from this evidence {same}.", soft_wrap=True)
