"""The overview, and the stream that keeps it live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from dashboard.web.access import COOKIE, may
from dashboard.web.connection import cut
from dashboard.web.context import desk, page, session

PING_S = 15
_log = structlog.get_logger("dashboard")


class Stream(EventSourceResponse):
    """Server-sent events; a browser that does not read is cut, which is no error of ours."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            cut(scope)
            await asyncio.sleep(0)  # so that uvicorn knows of it, and finds no fault with the answer
            _log.info("cut a browser that does not read", after_s=self.send_timeout)


async def home(request: Request) -> Response:
    """Each to the page that is theirs."""
    caller = session(request).caller
    if may(caller, "overview"):
        return RedirectResponse("/overview", 303)
    return RedirectResponse("/search" if caller.owner_id is None else f"/owners/{caller.owner_id}", 303)


async def overview(request: Request) -> Response:
    """Totals, credits over time, who earned most, and the latest images."""
    state = await desk(request).live.state()
    return page(request, "overview.html", title="Overview", state=state)


async def live_overview(request: Request) -> Response:
    """The overview's state as server-sent events."""
    parts = desk(request)
    return Stream(parts.live.stream(_let_in(request)), ping=PING_S, send_timeout=parts.settings.send_timeout_s)


def _let_in(request: Request) -> Callable[[], bool]:
    """Whether the browser would be let in if it asked anew: its token may be revoked, or its session be too old."""
    sessions, cookie = desk(request).sessions, request.cookies.get(COOKIE)

    def let_in() -> bool:
        found = sessions.read(cookie)
        return sessions.open if found is None else may(found.caller, "live_overview")

    return let_in
