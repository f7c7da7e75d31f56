"""`ledger explain`: one posting with everything it was computed from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.options import thumbnails_folder
from gmvaluator.credits import credits_text
from gmvaluator.database.place import Place, as_place
from gmvaluator.database.utc import from_utc_text
from gmvaluator.errors import MissingData
from gmvaluator.ids import TrainingImageId
from gmvaluator.images import thumbnail_path
from gmvaluator.ledger.records import Contribution, Payment, StoredPosting, owner_account, owner_of
from gmvaluator.ledger.replay import replay
from gmvaluator.ledger.summary import owner_names, plain_console, printable
from gmvaluator.ports import WorkCard
from gmvaluator.valuation import MILLION


def explanation(posting: StoredPosting, place: Path | Place) -> dict[str, Any]:
    """The posting as plain data: header, contributors with names, and the evidence as it was hashed."""
    cards, names = _cards(posting, place), _names(posting, place)
    data = as_place(place).folder
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


def _cards(posting: StoredPosting, place: Path | Place) -> dict[TrainingImageId, WorkCard]:
    ids = [one.training_image_id for one in posting.evidence.contributions]
    try:
        with open_catalogue(place) as catalogue:
            return catalogue.works(ids, from_utc_text(posting.header.generated_at))
    except MissingData:
        return {}


def _names(posting: StoredPosting, place: Path | Place) -> dict[str, str]:
    """Account to name, for the owners that were paid: those of the posting, whoever has the rights now."""
    found = posting.evidence.contributions
    accounts = {account for one in found for account, _ in (*one.rights, *((p.account, 0) for p in one.payments))}
    owners = [owner_id for account in accounts if (owner_id := owner_of(account)) is not None]
    return {owner_account(owner_id): name for owner_id, name in owner_names(place, owners).items()}
