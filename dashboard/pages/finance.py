"""Balances of every account, closed periods, disputes, and whether it all adds up."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.figures.data import Sources
from dashboard.figures.formatting import amount_text, instant
from dashboard.web.context import desk, page
from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.calendar import Period, closings
from gmvaluator.ledger.decisions.disputes import disputes
from gmvaluator.ledger.payouts.closing import payable_lines
from gmvaluator.ledger.payouts.terms import Terms

ACCOUNTS = 50
DISPUTES = 50
MAX_ACCOUNT_CHARACTERS = 60


async def finance(request: Request) -> Response:
    """The page; `after` names the account that the page of balances begins behind."""
    after = request.query_params.get("after", "")
    if len(after) > MAX_ACCOUNT_CHARACTERS:
        raise InvalidInput("the page of accounts is named by an account")
    state = await desk(request).live.state()
    found = await asyncio.to_thread(_told, desk(request).sources, after)
    return page(request, "finance.html", title="Finance", state=state, found=found)


def _told(sources: Sources, after: str) -> dict[str, Any]:
    balances = sources.ledger.balances(after, ACCOUNTS)
    with sources.ledger.snapshot() as connection:
        closed, disputed = closings(connection), disputes(connection)
    names = sources.names([one.account for one in balances.balances])
    accounts = [
        {
            "account": one.account,
            "name": names[one.account],
            "owner_id": None if one.owner_id is None else str(one.owner_id),
            "credits": amount_text(one.balance_micros),
        }
        for one in balances.balances
    ]
    return {
        "accounts": accounts,
        "after": after,
        "next": balances.balances[-1].account if len(accounts) == ACCOUNTS else None,
        "sequence": balances.sequence,
        "periods": _periods(closed),
        "disputes": [_dispute(one.as_dict()) for one in reversed(disputed[-DISPUTES:])],
        "open_disputes": sum(one.open for one in disputed),
    }


def _periods(closed: list[Any]) -> list[dict[str, Any]]:
    """The open period, then those that are closed, newest first."""
    now = Period.of(datetime.now(UTC))
    found = [{"period": str(now), "status": "open", "payable": None, "payees": None, "closed_at": None}]
    for closing in reversed(closed):
        terms = Terms.from_dict(closing.decision.facts["terms"])
        lines = payable_lines(closing)
        found.append(
            {
                "period": closing.decision.links.period,
                "status": "closed",
                "payable": terms.money_text(sum(minor for _, _, minor in lines)),
                "payees": f"{len(lines):,}",
                "closed_at": instant(closing.posting.header.generated_at),
            }
        )
    return found


def _dispute(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "opened_at": instant(found["opened_at"]), "held": amount_text(found["held_micros"])}
