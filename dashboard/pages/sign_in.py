"""Signing in and out."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dashboard.web.access import COOKIE
from dashboard.web.context import desk, form_of, page, set_session, unchecked_form
from gmvaluator.errors import Overloaded, Unauthenticated

MAX_WRONG_A_MINUTE = 30
"""Wrong tokens of all browsers together that are answered with the form; tokens are too long to guess.

A right one is let in however many were wrong, or a stranger could lock everybody out.
"""

_wrong: list[float] = []


async def sign_in_form(request: Request) -> Response:
    """Ask for a token."""
    if desk(request).sessions.open:
        return RedirectResponse("/", 303)
    return page(
        request, "sign_in.html", title="Sign in", problem="", next=_local(request.query_params.get("next", "/"))
    )


async def sign_in(request: Request) -> Response:
    """Begin a session; a wrong token gets the form again."""
    fields = await unchecked_form(request)
    target = _local(fields.get("next", "/"))
    try:
        cookie = await asyncio.to_thread(desk(request).sessions.begin, fields.get("token", "").strip())
    except Unauthenticated as error:
        _count_wrong()
        return page(request, "sign_in.html", 401, title="Sign in", problem=str(error), next=target)
    response = RedirectResponse(target, 303)
    set_session(request, response, cookie)
    return response


async def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    request.state.session = desk(request).sessions.read(request.cookies.get(COOKIE))
    if request.state.session is not None:
        await form_of(request)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


async def health(request: Request) -> Response:
    """Whether the ledger can be read."""
    failing = desk(request).live.failing
    return JSONResponse({"status": "failing" if failing else "ok"}, 503 if failing else 200)


def _local(target: str) -> str:
    """A path of ours to go on to; anything else could lead to another site."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain and len(target) < 500 else "/"


def _count_wrong() -> None:
    """Raises Overloaded beyond MAX_WRONG_A_MINUTE."""
    now = time.monotonic()
    _wrong[:] = [moment for moment in _wrong if now - moment < 60]
    if len(_wrong) >= MAX_WRONG_A_MINUTE:
        raise Overloaded("too many wrong tokens were tried: wait a minute")
    _wrong.append(now)
