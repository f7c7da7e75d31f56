"""The finance page: balances of every account, closed periods, disputes, and the reconciliation."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import amount_text, instant
from dashboard.web.context import app_context, page
from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.calendar import Period, closings
from gmvaluator.ledger.decisions.disputes import read_disputes
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.payouts.terms import Terms

ACCOUNTS = 50
"""Accounts on one page of balances."""

DISPUTES = 50
"""Newest disputes that are shown."""

MAX_ACCOUNT_CHARACTERS = 60


async def finance(request: Request) -> Response:
    """Show the page; the query parameter `after` names the account before the first balance."""
    after = request.query_params.get("after", "")
    if len(after) > MAX_ACCOUNT_CHARACTERS:
        raise InvalidInput("the page of accounts is named by an account")
    context = app_context(request)
    state = await context.live.state()
    figures = await asyncio.to_thread(_figures, context.data, after)
    return page(request, "finance.html", title="Finance", state=state, view=figures)


def _figures(data: DataAccess, after: str) -> dict[str, Any]:
    balances = data.ledger.balances(after, ACCOUNTS)
    with data.ledger.snapshot() as connection:
        closed, disputed = closings(connection), read_disputes(connection)
    names = data.names([balance.account for balance in balances.balances])
    accounts = [
        {
            "account": balance.account,
            "name": names[balance.account],
            "owner_id": None if balance.owner_id is None else str(balance.owner_id),
            "credits": amount_text(balance.balance_micros),
        }
        for balance in balances.balances
    ]
    return {
        "accounts": accounts,
        "after": after,
        "next": balances.balances[-1].account if len(accounts) == ACCOUNTS else None,
        "sequence": balances.sequence,
        "periods": _periods(closed),
        "disputes": [_dispute(dispute.as_dict()) for dispute in reversed(disputed[-DISPUTES:])],
        "open_disputes": sum(dispute.open for dispute in disputed),
    }


def _periods(closed: list[Any]) -> list[dict[str, Any]]:
    """Return the open period, then the closed ones, newest first."""
    current = Period.of(datetime.now(UTC))
    rows = [{"period": str(current), "status": "open", "payable": None, "payees": None, "closed_at": None}]
    for closing in reversed(closed):
        terms = Terms.from_dict(closing.decision.facts["terms"])
        lines = payable_lines(closing)
        rows.append(
            {
                "period": closing.decision.links.period,
                "status": "closed",
                "payable": terms.money_text(sum(minor for _, _, minor in lines)),
                "payees": f"{len(lines):,}",
                "closed_at": instant(closing.posting.header.generated_at),
            }
        )
    return rows


def _dispute(dispute: dict[str, Any]) -> dict[str, Any]:
    return {**dispute, "opened_at": instant(dispute["opened_at"]), "held": amount_text(dispute["held_micros"])}
