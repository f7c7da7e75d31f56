"""The application's context, and what all handlers share: guarded routes, forms, pages and error responses."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from dashboard.figures.data import DataAccess
from dashboard.figures.formatting import WHAT_A_CREDIT_MEANS
from dashboard.figures.live import Live
from dashboard.web.access import ACCESS, COOKIE, PAGES, PUBLIC, Session, Sessions, check_route, may
from dashboard.web.rate_limit import RateLimit
from dashboard.web.settings import DashboardSettings
from gmvaluator.auth.roles import LOCAL
from gmvaluator.errors import InvalidInput, Unauthenticated

MAX_FORM_BYTES = 16 * 1024
"""Maximum size of a form's body, in bytes."""

MAX_FORM_FIELDS = 20
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class AppContext:
    """The parts that handlers share; one per process.

    wrong_tokens: limits how many wrong tokens of all browsers together are answered with the form.
    """

    settings: DashboardSettings
    data: DataAccess
    sessions: Sessions
    live: Live
    templates: Environment
    wrong_tokens: RateLimit


def app_context(request: Request) -> AppContext:
    """Return the context of the application that handles the request."""
    context: AppContext = request.app.state.context
    return context


def session(request: Request) -> Session:
    """Return the session that the route's guard read."""
    current: Session = request.state.session
    return current


def guarded(path: str, name: str, handler: Handler, method: str = "GET") -> Route:
    """Return a route that is open to the roles of `access.ACCESS[name]`."""
    assert name in ACCESS, name

    async def guard(request: Request) -> Response:
        request.state.session = None
        if ACCESS[name] is PUBLIC:
            return await handler(request)
        sessions = app_context(request).sessions
        current = sessions.read(request.cookies.get(COOKIE))
        if current is None and sessions.open:
            return await _as_local(request, name, handler)
        if current is None:
            return _ask_for_token(request)
        request.state.session = current
        check_route(current.caller, name)
        return await handler(request)

    return Route(path, guard, methods=[method], name=name)


async def _as_local(request: Request, name: str, handler: Handler) -> Response:
    """Handle a request without tokens as the local operator; the cookie carries only the CSRF secret."""
    if request.method not in ("GET", "HEAD"):
        raise Unauthenticated("this browser has no session yet: load the page once, then send the form")
    sessions = app_context(request).sessions
    cookie = sessions.anonymous()
    request.state.session = sessions.read(cookie)
    check_route(LOCAL, name)
    response = await handler(request)
    set_session(request, response, cookie)
    return response


def set_session(request: Request, response: Response, cookie: str) -> None:
    """Set the session cookie, which no script can read and no other site can send with a form."""
    settings = app_context(request).settings
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=settings.session_s,
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )


def _ask_for_token(request: Request) -> Response:
    """Redirect a browser to the sign-in page. Raises Unauthenticated for other clients."""
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"/sign-in?next={quote(request.url.path)}", status_code=303)
    raise Unauthenticated("sign in first: this needs a session")


async def read_form(request: Request) -> dict[str, str]:
    """Return a form's fields. Raises InvalidInput if it cannot be read, Forbidden for a wrong CSRF secret."""
    fields = await unchecked_form(request)
    session(request).check_csrf(fields.pop("csrf", ""))
    return fields


async def unchecked_form(request: Request) -> dict[str, str]:
    """Return a form's fields without a CSRF check. Raises InvalidInput if it is too large or no form."""
    body = await bounded_body(request, MAX_FORM_BYTES)
    try:
        text = body.decode("utf-8")
        # An empty form is valid, but strict parsing refuses it.
        return dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=MAX_FORM_FIELDS))
    except ValueError as error:
        raise InvalidInput("the form cannot be read: load the page again, and send it once more") from error


async def bounded_body(request: Request, limit: int) -> bytes:
    """Return the body. Raises InvalidInput if it is over `limit` bytes."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise InvalidInput(f"what was sent is over {limit:,} bytes: send less")
        chunks.append(chunk)
    return b"".join(chunks)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Render a template as a whole page; `values` are escaped where they are printed."""
    context = app_context(request)
    current: Session | None = request.state.session
    caller = current.caller if current else None
    links = [(f"/{name}", label) for name, label in PAGES if caller and may(caller, name)]
    if caller and caller.owner_id is not None and caller.only_account:
        links.insert(0, (f"/owners/{caller.owner_id}", "My royalties"))
    text = context.templates.get_template(template).render(
        links=links,
        path=request.url.path,
        caller=caller,
        local=context.sessions.open,
        csrf=current.csrf if current else "",
        meaning=WHAT_A_CREDIT_MEANS,
        pictures=caller is not None and may(caller, "generated_picture"),
        **values,
    )
    return HTMLResponse(text, status)


def error_response(request: Request, status: int, title: str, text: str) -> Response:
    """Return an error response: a page for browsers, JSON for programs."""
    if "text/html" in request.headers.get("accept", ""):
        # Errors of routing come before any guard has set the session.
        if not hasattr(request.state, "session"):
            request.state.session = None
        return page(request, "error.html", status, title=title, text=text)
    return JSONResponse({"error": text}, status)


def environment() -> Environment:
    """Return the templates' environment: every value is escaped, and an undefined name is an error."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["amount"] = amount
    templates.globals["new_dispute_id"] = new_dispute_id
    return templates


def new_dispute_id() -> str:
    """Return an id for a form to carry, so that a form sent twice opens one dispute."""
    return f"web-{secrets.token_hex(8)}"


def amount(text: str) -> Markup:
    """Format credits with the decimals after the second in small print, as they are only for checking."""
    whole, _, part = text.partition(".")
    return Markup('{}.{}<span class="fine">{}</span>').format(whole, part[:2], part[2:]) if part else escape(text)
