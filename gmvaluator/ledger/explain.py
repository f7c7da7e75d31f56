"""`ledger explain`: one posting with everything it was computed from.

`ledger totals`: balances by kind of account, and by owner with names from the catalogue.

`ledger explain` of a decision: what was decided, why, and what it moved.
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
from gmvaluator.ledger.reader import MAX_PAGE, LedgerReader, load_postings, postings_where
from gmvaluator.ledger.records import Contribution, Payment, StoredPosting
from gmvaluator.ledger.results import Balance
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.ledger.verification import replay
from gmvaluator.ports import WorkCard
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation, as_location
from gmvaluator.storage.schema import from_utc_text
from gmvaluator.valuation.weights import MILLION, credits_text

_PIPE_COLUMNS = 250
_KINDS = ("owners", "unattributed", "suspense", "held", "paid")


def summary(ledger: LedgerReader, place: Path | DataLocation) -> dict[str, Any]:
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


def owner_names(place: Path | DataLocation, owner_ids: Sequence[OwnerId]) -> dict[OwnerId, str]:
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


def _owners(ledger: LedgerReader, place: Path | DataLocation) -> Iterator[dict[str, Any]]:
    page = ledger.owner_balances(limit=MAX_PAGE)
    while page.balances:
        yield from _described(ledger, place, page.balances)
        page = ledger.owner_balances(after=page.balances[-1].account, limit=MAX_PAGE)


def _described(
    ledger: LedgerReader, place: Path | DataLocation, balances: Sequence[Balance]
) -> Iterator[dict[str, Any]]:
    works = ledger.count_works_paid([balance.account for balance in balances])
    names = owner_names(place, [balance.owner_id for balance in balances if balance.owner_id is not None])
    for balance in balances:
        if balance.owner_id is not None:
            yield {
                "owner_id": str(balance.owner_id),
                "display_name": names[balance.owner_id],
                "credit_micros": balance.balance_micros,
                "works": works.get(balance.account, 0),
            }


def explanation(posting: StoredPosting, place: Path | DataLocation) -> dict[str, Any]:
    """The posting as plain data: header, contributors with names, and the evidence as it was hashed."""
    cards, names = _cards(posting, place), _names(posting, place)
    data = as_location(place).folder
    found = posting.evidence.contributions
    return {
        **posting.header.as_dict(),
        "hash": posting.hash,
        "replay_equal": replay(posting).equal,
        "quality": posting.evidence.quality_millionths / MILLION,
        "unattributed_micros": posting.evidence.unattributed_micros,
        "contributors": [_contributor(one, cards.get(one.training_image_id), names, data) for one in found],
        "evidence": json.loads(posting.evidence_json),
    }


def print_explanation(found: dict[str, Any]) -> None:
    """For people: what was valued and how, then a line a contributor."""
    console = plain_console()
    table = Table("rank", "work", "paid to", "distance", "similarity", "share", "95 % interval", "credit", "thumbnail")
    for column in (0, 3, 4, 5, 6, 7):
        table.columns[column].justify = "right"
    for one in found["contributors"]:
        table.add_row(*map(printable, _cells(one)))
    for line in _heading(found):
        console.print(line, soft_wrap=True)
    if found["contributors"]:
        console.print(table)
    same = "gives the same credits" if found["replay_equal"] else "GIVES OTHER CREDITS: run `gmvaluator ledger verify`"
    console.print(f"Computing it again from this evidence {same}.", soft_wrap=True)


def _heading(found: dict[str, Any]) -> list[str]:
    evidence = found["evidence"]
    image, policy = evidence["image"], evidence["policy"]
    settings = ", ".join(f"{name} {value}" for name, value in policy.items() if name not in ("policy", "uncertainty"))
    return [
        f"Posting {found['sequence']}: generation {found['generation_id']} of {found['model_version']}, "
        f"asked by {found['generator_identity']}",
        f"generated {found['generated_at']}, posted {found['posted_at']}",
        f"image {image['width']}x{image['height']}, {image['size_bytes']:,} bytes, SHA-256 {image['sha256']}"
        + (", embedded by the client itself" if evidence.get("embedded_by") else ""),
        f"policy {policy['policy']} ({settings}); profile {evidence['profile']} {evidence['profile_hash'][:12]}; "
        f"collection {evidence['collection']}",
        f"quality {found['quality']:.6f}: issued {credits_text(found['issued_micros'])} credits, "
        f"{credits_text(found['unattributed_micros'])} of them unattributed{_unsure(evidence)}",
    ]


def _unsure(evidence: dict[str, Any]) -> str:
    if "uncertainty" not in evidence:
        return ""
    low, high = (bound / MILLION for bound in evidence["uncertainty"]["unattributed"])
    return f" (a share of {low:.2%}-{high:.2%})"


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    payees = ", ".join(payment["display_name"] for payment in one["payments"])
    if one["held_for"]:
        payees += f" (too unsure to pay {', '.join(right['display_name'] for right in one['held_for'])})"
    if one["competing"]:
        payees += " (competes: a near-copy was claimed earlier)"
    interval = one["share_interval"]
    return (
        str(one["rank"]),
        one["key"] or one["training_image_id"],
        payees,
        f"{one['distance_millionths'] / MILLION:.6f}",
        f"{one['clip_similarity_millionths'] / MILLION:.6f}",
        f"{one['share']:.4%}",
        "" if interval is None else f"{interval[0]:.2%}-{interval[1]:.2%}",
        credits_text(one["credit_micros"]),
        one["thumbnail"] or "",
    )


def _contributor(one: Contribution, card: WorkCard | None, names: Mapping[str, str], data: Path) -> dict[str, Any]:
    thumbnail = thumbnail_path(thumbnails_folder(data), one.training_image_id)
    return {
        "rank": one.rank,
        "training_image_id": str(one.training_image_id),
        "key": card.key if card else "",
        "title": card.title if card else "",
        "distance_millionths": one.distance_millionths,
        "clip_similarity_millionths": one.clip_similarity_millionths,
        "share": one.share,
        "credit_micros": one.credit_micros,
        "payments": [_payment(payment, names) for payment in one.payments],
        "duplicate_group": None if one.group is None else str(one.group),
        "competing": one.competing,
        "share_interval": None if one.interval is None else [bound / MILLION for bound in one.interval],
        "held_for": None if one.held_for is None else [_holder(*right, names) for right in one.held_for],
        "thumbnail": str(thumbnail) if thumbnail.is_file() else None,
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


def _cards(posting: StoredPosting, place: Path | DataLocation) -> dict[TrainingImageId, WorkCard]:
    ids = [one.training_image_id for one in posting.evidence.contributions]
    try:
        with open_catalogue(place) as catalogue:
            return catalogue.works(ids, from_utc_text(posting.header.generated_at))
    except MissingData:
        return {}


def _names(posting: StoredPosting, place: Path | DataLocation) -> dict[str, str]:
    """Account to name, for the owners that were paid: those of the posting, whoever has the rights now."""
    found = posting.evidence.contributions
    accounts = {account for one in found for account, _ in (*one.rights, *((p.account, 0) for p in one.payments))}
    owners = [owner_id for account in accounts if (owner_id := owner_of(account)) is not None]
    return {owner_account(owner_id): name for owner_id, name in owner_names(place, owners).items()}


def decisions_about(connection: Connection, sequence: int) -> list[StoredPosting]:
    """Decisions that moved amounts of a posting, in order."""
    of_it = select(decisions.c.sequence).where(decisions.c.about_sequence == sequence)
    return load_postings(connection, postings_where(postings.c.sequence.in_(of_it)).order_by(postings.c.sequence))


def decision_explanation(posting: StoredPosting) -> dict[str, Any]:
    """A decision's posting as plain data: header, reason, links, facts and entries."""
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


def print_decision(found: dict[str, Any]) -> None:
    """For people: the decision, then what it moved."""
    console = plain_console()
    links = [f"{name.replace('_', ' ')} {found[name]}" for name in ("about_sequence", "dispute_id", "period")]
    shown = [text for text in links if not text.endswith(" None")]
    console.print(f"Posting {found['sequence']}: {found['kind']} {found['generation_id']}", soft_wrap=True)
    console.print(f"decided {found['generated_at']}; {', '.join(shown) or 'linked to nothing'}", soft_wrap=True)
    console.print(f"reason: {printable(found['reason'])}", soft_wrap=True)
    table = Table("account", "work", "moved")
    table.columns[2].justify = "right"
    for entry in found["entries"]:
        amount = credits_text(entry["amount_micros"])
        table.add_row(printable(entry["account"]), entry["training_image_id"] or "", amount)
    if found["entries"]:
        console.print(table)
    same = "gives the same amounts" if found["replay_equal"] else "GIVES OTHER AMOUNTS: run `gmvaluator ledger verify`"
    console.print(f"Computing it again from this evidence {same}.", soft_wrap=True)
