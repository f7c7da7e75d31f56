"""The overview page, and the stream of its live updates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from dashboard.web.access import COOKIE, may
from dashboard.web.connection import close_now
from dashboard.web.context import app_context, page, session

PING_S = 15
"""Seconds between comments that keep an idle stream open through proxies."""

_log = structlog.get_logger("dashboard")


class Stream(EventSourceResponse):
    """A response of server-sent events that closes the connection of a browser that does not read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            close_now(scope)
            # One loop iteration lets uvicorn see the closed connection; it would log an incomplete response otherwise.
            await asyncio.sleep(0)
            _log.info("closed the connection of a browser that does not read", after_s=self.send_timeout)


async def home(request: Request) -> Response:
    """Redirect to the first page that the caller may open."""
    caller = session(request).caller
    if may(caller, "overview"):
        return RedirectResponse("/overview", 303)
    return RedirectResponse("/search" if caller.owner_id is None else f"/owners/{caller.owner_id}", 303)


async def overview(request: Request) -> Response:
    """Show totals, credits over time, the highest balances and the latest images."""
    state = await app_context(request).live.state()
    return page(request, "overview.html", title="Overview", state=state)


async def live_overview(request: Request) -> Response:
    """Stream the overview's state as server-sent events."""
    if request.method == "HEAD":
        # The stream of a GET has no end, and nobody would read it.
        return Response(media_type="text/event-stream")
    context = app_context(request)
    updates = context.live.stream(_authorization(request))
    return Stream(updates, ping=PING_S, send_timeout=context.settings.send_timeout_s)


def _authorization(request: Request) -> Callable[[], bool]:
    """Return a function that tells whether the request would be authorized now.

    Its token may have been revoked, or its session may have expired, since the stream began.
    """
    sessions, cookie = app_context(request).sessions, request.cookies.get(COOKIE)

    def is_authorized() -> bool:
        current = sessions.read(cookie)
        return sessions.open if current is None else may(current.caller, "live_overview")

    return is_authorized
