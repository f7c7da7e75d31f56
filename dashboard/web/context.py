"""What every handler works with, and how it answers: pages, forms, and refusals that say what to do."""

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

from dashboard.figures.data import Sources
from dashboard.figures.formatting import WHAT_A_CREDIT_MEANS
from dashboard.figures.live import Live
from dashboard.web.access import ACCESS, COOKIE, NOBODY_ASKED, PAGES, Session, Sessions, check_route, may
from dashboard.web.settings import DashboardSettings
from gmvaluator.auth.roles import LOCAL
from gmvaluator.errors import InvalidInput, Unauthenticated

MAX_FORM_BYTES = 16 * 1024
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class AppContext:
    """The parts that handlers share; one in a process."""

    settings: DashboardSettings
    sources: Sources
    sessions: Sessions
    live: Live
    templates: Environment


def desk(request: Request) -> AppContext:
    """The desk of the application that answers."""
    found: AppContext = request.app.state.desk
    return found


def session(request: Request) -> Session:
    """The session that `guarded` found."""
    found: Session = request.state.session
    return found


def guarded(path: str, name: str, handler: Handler, method: str = "GET") -> Route:
    """A route that lets in those whom `access.ACCESS` lets in."""
    assert name in ACCESS, name

    async def guard(request: Request) -> Response:
        request.state.session = None
        if ACCESS[name] is NOBODY_ASKED:
            return await handler(request)
        found = desk(request).sessions.read(request.cookies.get(COOKIE))
        if found is None and desk(request).sessions.open:
            return await _as_local(request, name, handler)
        if found is None:
            return _ask_for_token(request)
        request.state.session = found
        check_route(found.caller, name)
        return await handler(request)

    return Route(path, guard, methods=[method], name=name)


async def _as_local(request: Request, name: str, handler: Handler) -> Response:
    """Without tokens everyone on this machine is let in; the cookie only carries the secret for forms."""
    if request.method != "GET":
        raise Unauthenticated("this browser has no session yet: load the page once, then send the form")
    cookie = desk(request).sessions.anonymous()
    request.state.session = desk(request).sessions.read(cookie)
    check_route(LOCAL, name)
    response = await handler(request)
    set_session(request, response, cookie)
    return response


def set_session(request: Request, response: Response, cookie: str) -> None:
    """Give the browser its session: no script reads it, no other site sends it."""
    settings = desk(request).settings
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=settings.session_s,
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )


def _ask_for_token(request: Request) -> Response:
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"/sign-in?next={quote(request.url.path)}", status_code=303)
    raise Unauthenticated("sign in first: this needs a session")


async def form_of(request: Request) -> dict[str, str]:
    """A form's fields, its CSRF secret checked. Raises InvalidInput if it is too large or no form, or Forbidden."""
    fields = await unchecked_form(request)
    session(request).check_csrf(fields.pop("csrf", ""))
    return fields


async def unchecked_form(request: Request) -> dict[str, str]:
    """A form's fields. Raises InvalidInput if it is too large or no form."""
    body = await bounded_body(request, MAX_FORM_BYTES)
    try:
        return dict(
            parse_qsl(body.decode("utf-8"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=20)
        )
    except ValueError as error:
        raise InvalidInput("the form cannot be read: load the page again, and send it once more") from error


async def bounded_body(request: Request, limit: int) -> bytes:
    """The body, `limit` bytes at most. Raises InvalidInput."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise InvalidInput(f"what was sent is over {limit:,} bytes: send less")
        chunks.append(chunk)
    return b"".join(chunks)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A whole page. `values` are escaped where they are printed."""
    found: Session | None = request.state.session
    caller = found.caller if found else None
    links = [(f"/{name}", label) for name, label in PAGES if caller and may(caller, name)]
    if caller and caller.owner_id is not None and caller.only_account:
        links.insert(0, (f"/owners/{caller.owner_id}", "My royalties"))
    text = (
        desk(request)
        .templates.get_template(template)
        .render(
            links=links,
            path=request.url.path,
            caller=caller,
            local=desk(request).sessions.open,
            csrf=found.csrf if found else "",
            meaning=WHAT_A_CREDIT_MEANS,
            pictures=caller is not None and may(caller, "generated_picture"),
            **values,
        )
    )
    return HTMLResponse(text, status)


def refusal(request: Request, status: int, title: str, text: str) -> Response:
    """What went wrong, as a page for people and as JSON for programs."""
    if "text/html" in request.headers.get("accept", ""):
        if not hasattr(request.state, "session"):
            request.state.session = None
        return page(request, "error.html", status, title=title, text=text)
    return JSONResponse({"error": text}, status)


def environment() -> Environment:
    """Templates: everything printed is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["amount"] = amount
    made.globals["new_dispute_id"] = new_dispute_id
    return made


def new_dispute_id() -> str:
    """The id of the dispute that a form opens: of the form, so that the form sent twice opens one."""
    return f"web-{secrets.token_hex(8)}"


def amount(text: str) -> Markup:
    """A credit figure whose first decimals are read and whose last are there to check: 44.24 and, smaller, 1382."""
    whole, _, part = text.partition(".")
    return Markup('{}.{}<span class="fine">{}</span>').format(whole, part[:2], part[2:]) if part else escape(text)
