"""The ASGI application: routes, security headers, error responses and the background update."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.figures.live import cancelled
from dashboard.pages import finance, generation, operations, overview, owner, search, sign_in, work
from dashboard.web.context import LOOPBACK_NAMES, AppContext, error_response, guarded
from dashboard.web.settings import DashboardSettings
from gmvaluator.errors import GmvaluatorError, status_of

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

"""Content security policy: only scripts of this server run, and no other site may frame a page."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class SecurityHeaders:
    """Middleware that adds `HEADERS` to every response, and forbids caching unless the response allows it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


STATIC = Path(__file__).parent / "static"
EVERYWHERE = ("", "0.0.0.0", "[::]")  # noqa: S104 - compared, not bound
"""Hosts of addresses that listen on every interface."""

_STATUS = {
    "INVALID_ARGUMENT": (400, "Invalid request"),
    "UNAUTHENTICATED": (401, "Sign in first"),
    "PERMISSION_DENIED": (403, "No access"),
    "NOT_FOUND": (404, "Not found"),
    "ALREADY_EXISTS": (409, "Already done"),
    "FAILED_PRECONDITION": (409, "Not configured"),
    "RESOURCE_EXHAUSTED": (429, "Too many requests"),
    "UNAVAILABLE": (503, "Service unavailable"),
    "INTERNAL": (500, "Internal error"),
}
"""HTTP status and title by gRPC status."""

_log = structlog.get_logger("dashboard")


class CachedStatic(StaticFiles):
    """The static files, which browsers cache for an hour and then revalidate."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "public, max-age=3600, must-revalidate"
        return response


def routes() -> list[BaseRoute]:
    """Return every route; each has an entry in `access.ACCESS`."""
    return [
        guarded("/", "home", overview.home),
        guarded("/overview", "overview", overview.overview),
        guarded("/live/overview", "live_overview", overview.live_overview),
        guarded("/generations/{sequence}", "generation", generation.generation),
        guarded("/generations/{sequence}/replay", "replay", generation.replayed),
        guarded("/owners/{owner}", "owner", owner.owner),
        guarded("/owners/{owner}/statements/{period}", "statement", owner.statement),
        guarded("/works/{work}", "work", work.work),
        guarded("/pictures/works/{work}", "work_picture", work.work_picture),
        guarded("/pictures/generations/{sequence}", "generated_picture", generation.generated_image),
        guarded("/disputes", "dispute", owner.dispute, "POST"),
        guarded("/finance", "finance", finance.finance),
        guarded("/operations", "operations", operations.operations_page),
        guarded("/operations/data", "operations_data", operations.operations_data),
        guarded("/search", "search", search.search),
        guarded("/preview", "preview", search.preview, "POST"),
        Route("/metrics", operations.metrics, name="metrics"),
        guarded("/sign-in", "sign_in_form", sign_in.sign_in_form),
        guarded("/sign-in", "sign_in", sign_in.sign_in, "POST"),
        guarded("/sign-out", "sign_out", sign_in.sign_out, "POST"),
        guarded("/health", "health", sign_in.health),
        Mount("/static", CachedStatic(directory=STATIC), name="static"),
    ]


def host_names(settings: DashboardSettings) -> list[str]:
    """Return the Host headers that a dashboard without tokens accepts; any, if it listens on every interface."""
    host = settings.address.rpartition(":")[0]
    return ["*"] if host in EVERYWHERE else [*LOOPBACK_NAMES, host]


def application(context: AppContext) -> Starlette:
    """Return the ASGI application for a context."""
    middleware = [Middleware(SecurityHeaders)]
    if context.sessions.open:
        # DNS rebinding: another site's name that resolves to this machine must not act as the local user.
        names = host_names(context.settings)
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False))
    # Starlette's type of a handler takes any Exception; these take the type under which they are registered.
    handlers: dict[Any, Any] = {
        GmvaluatorError: _handle_error,
        HTTPException: _handle_http_exception,
        ClientDisconnect: _handle_disconnect,
        Exception: _handle_unexpected,
    }
    app = Starlette(
        routes=routes(),
        middleware=middleware,
        lifespan=_running,
        exception_handlers=handlers,
    )
    app.state.context = context
    return app


@asynccontextmanager
async def _running(app: Starlette) -> AsyncIterator[None]:
    context: AppContext = app.state.context
    updating = asyncio.create_task(context.live.run())
    yield
    await cancelled(updating)


async def _handle_error(request: Request, error: GmvaluatorError) -> Response:
    status, title = _STATUS[status_of(error)]
    if status == 500:
        _log.error("request failed", path=request.url.path, error=str(error))
    return error_response(request, status, title, str(error))


async def _handle_http_exception(request: Request, error: HTTPException) -> Response:
    title = "Not found" if error.status_code == 404 else "Refused"
    text = "there is no such page: go to the overview, or search" if error.status_code == 404 else error.detail
    return error_response(request, error.status_code, title, text)


async def _handle_disconnect(request: Request, error: ClientDisconnect) -> Response:  # noqa: ARG001
    """Answer a request whose body did not arrive in time; its connection is closed already."""
    return Response(status_code=408)


async def _handle_unexpected(request: Request, error: Exception) -> Response:
    _log.error("request failed", path=request.url.path, error=repr(error))
    return error_response(request, 500, "Internal error", "the dashboard failed on this page; its log has the details")
