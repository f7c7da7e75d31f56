"""The page of an owner: earnings by work, month and image; statements to download; opening a dispute."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.figures.cards import picture, work_title
from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import amount_text, instant
from dashboard.web.access import check_owner, may
from dashboard.web.attributor_client import attributor_client
from dashboard.web.context import app_context, page, read_form, session
from gmvaluator.accounts import owner_account
from gmvaluator.catalogue.store import open_if_present
from gmvaluator.errors import InvalidInput
from gmvaluator.ids import OwnerId
from gmvaluator.ledger.calendar import Period, closings
from gmvaluator.ledger.decisions.disputes import checked_dispute_id
from gmvaluator.ledger.page_queries import account_earnings, balances_of
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.payouts.statement import statements
from gmvaluator.ledger.payouts.statement_formats import statement_csv, statement_json, statement_page
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.reader import read_head

WORKS, USES, MONTHS, DAYS = 24, 12, 12, 60
"""Rows of each list of the page: best works, newest paid images, months, days."""

FORMS = {
    "csv": (statement_csv, "text/csv"),
    "json": (statement_json, "application/json"),
    "html": (statement_page, "text/html"),
}


async def owner(request: Request) -> Response:
    """Show the page; an owner may open only their own."""
    context, caller = app_context(request), session(request).caller
    owner = owner_id(request.path_params["owner"])
    check_owner(caller, owner_account(owner))
    figures = await asyncio.to_thread(_figures, context.data, owner)
    disputable = may(caller, "dispute") and bool(context.settings.server)
    return page(request, "owner.html", title=figures["name"], view=figures, may_dispute=disputable)


async def statement(request: Request) -> Response:
    """Return a statement to download, as CSV, JSON or a page to print."""
    owner = owner_id(request.path_params["owner"])
    check_owner(session(request).caller, owner_account(owner))
    form = request.query_params.get("format", "csv")
    if form not in FORMS:
        raise InvalidInput(f"there is no form {form[:20]!r} of a statement: ask for csv, json or html")
    period = Period.parse(request.path_params["period"])
    text = await asyncio.to_thread(_statement, app_context(request).data, owner, period, form)
    disposition = f'attachment; filename="statement-{period}-{owner}.{form}"'
    return Response(text, media_type=FORMS[form][1], headers={"content-disposition": disposition})


async def dispute(request: Request) -> Response:
    """Open a dispute through the attributor, which holds the disputed credits."""
    fields = await read_form(request)
    caller = session(request).caller
    # Owners may claim only for themselves; other roles name the claimant, if there is one.
    claimant = f"owner:{caller.owner_id}" if caller.only_account else fields.get("claimant", "").strip()
    opened = await asyncio.to_thread(
        attributor_client(request).open_dispute,
        checked_dispute_id(fields.get("dispute_id", "")),
        fields.get("reason", ""),
        training_image_id=fields.get("training_image_id", "").strip(),
        generation_id=fields.get("generation_id", "").strip(),
        claimant=claimant,
    )
    result = {
        "dispute_id": opened.dispute_id,
        "held": amount_text(opened.held_micros),
        "sequence": opened.sequence,
        "more": opened.more_to_hold,
    }
    return page(request, "disputed.html", title="Dispute opened", view=result)


def owner_id(text: str) -> OwnerId:
    """Parse an owner's UUID from a path. Raises InvalidInput."""
    try:
        return OwnerId(uuid.UUID(text))
    except ValueError:
        raise InvalidInput("an owner is named by a UUID, which the overview links to") from None


def _figures(data: DataAccess, owner: OwnerId) -> dict[str, Any]:
    account = owner_account(owner)
    with data.ledger.snapshot() as connection:
        balance = balances_of(connection, [account])[account]
        earned = account_earnings(connection, account, WORKS, USES)
        closed = closings(connection)
        head = read_head(connection).sequence
    cards = data.cards({work.training_image_id for work in earned.works})
    highest = max((work.credit_micros for work in earned.works), default=0)
    return {
        "owner_id": str(owner),
        "name": data.names([account])[account],
        "balance": amount_text(balance),
        "sequence": head,
        "generations": f"{earned.generation_count:,}",
        "days": [[day, micros / 1_000_000] for day, micros in list(earned.by_day.items())[-DAYS:]],
        "months": _months(earned.by_day, account, closed),
        "works": [
            {
                "work_id": str(work.training_image_id),
                "title": work_title(cards.get(work.training_image_id), work.training_image_id),
                "picture": picture(data, work.training_image_id),
                "credits": amount_text(work.credit_micros),
                "generations": f"{work.generations:,}",
                "bar": round(100 * max(0, work.credit_micros) / highest, 2) if highest > 0 else 0,
            }
            for work in earned.works
        ],
        "uses": [
            {
                "sequence": use.sequence,
                "generated_at": instant(use.generated_at),
                "credits": amount_text(use.credit_micros),
            }
            for use in earned.paid_generations
        ],
    }


def _months(by_day: dict[str, int], account: str, closed: list[Any]) -> list[dict[str, Any]]:
    """Return months, newest first: the credits of each one's generations, and the payable amount of closed ones."""
    sums: dict[str, int] = defaultdict(int)
    for day, micros in by_day.items():
        sums[day[:7]] += micros
    payable = {}
    for closing in closed:
        terms = Terms.from_dict(closing.decision.facts["terms"])
        minor = {name: amount for name, _, amount in payable_lines(closing)}.get(account, 0)
        payable[str(closing.decision.links.period)] = terms.money_text(minor)
    sums.setdefault(str(Period.of(datetime.now(UTC))), 0)
    months = sorted(sums.keys() | payable.keys(), reverse=True)[:MONTHS]
    return [
        {"period": month, "credits": amount_text(sums.get(month, 0)), "payable": payable.get(month)} for month in months
    ]


def _statement(data: DataAccess, owner: OwnerId, period: Period, form: str) -> str:
    with open_if_present(data.place) as names:
        (owner_statement,) = statements(data.ledger, period, names, owner)
        return FORMS[form][0](owner_statement)
