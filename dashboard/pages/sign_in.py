"""The sign-in page, signing in and out, and the health check."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dashboard.web.access import COOKIE
from dashboard.web.context import app_context, page, read_form, set_session, unchecked_form
from gmvaluator.errors import Overloaded, Unauthenticated


async def sign_in_form(request: Request) -> Response:
    """Show the form for a token."""
    if app_context(request).sessions.open:
        return RedirectResponse("/", 303)
    target = _local(request.query_params.get("next", "/"))
    return page(request, "sign_in.html", title="Sign in", problem="", next=target)


async def sign_in(request: Request) -> Response:
    """Begin a session; for a wrong token show the form again. Raises Overloaded if too many were wrong."""
    context = app_context(request)
    fields = await unchecked_form(request)
    target = _local(fields.get("next", "/"))
    try:
        cookie = await asyncio.to_thread(context.sessions.begin, fields.get("token", "").strip())
    except Unauthenticated as error:
        # Only wrong tokens are limited: otherwise a stranger could lock everyone out by sending them.
        if not context.wrong_tokens.allow():
            raise Overloaded("too many wrong tokens were tried: wait a minute") from error
        return page(request, "sign_in.html", 401, title="Sign in", problem=str(error), next=target)
    response = RedirectResponse(target, 303)
    set_session(request, response, cookie)
    return response


async def sign_out(request: Request) -> Response:
    """End the session, in every browser that has its cookie."""
    request.state.session = app_context(request).sessions.read(request.cookies.get(COOKIE))
    if request.state.session is not None:
        await read_form(request)
        await asyncio.to_thread(app_context(request).sessions.end, request.state.session)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


async def health(request: Request) -> Response:
    """Report whether the ledger can be read."""
    failing = app_context(request).live.failing
    return JSONResponse({"status": "failing" if failing else "ok"}, 503 if failing else 200)


def _local(target: str) -> str:
    """Return the path to continue at, or "/" if it could lead to another site."""
    # Browsers read "//host" and "/\\host" as addresses of another site.
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain and len(target) < 500 else "/"
