"""The operations page, with the attributor's throughput, latency and quality, and the dashboard's own metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dashboard.figures.metrics import exposition, operations, scrape
from dashboard.web.access import ACCESS
from dashboard.web.context import app_context, page
from gmvaluator.auth.authenticator import bearer_token
from gmvaluator.errors import Unavailable


async def operations_page(request: Request) -> Response:
    """Show throughput, latency by stage, queue, refusals, recall and quality."""
    return page(request, "operations.html", title="Operations", view=await _state(request))


async def operations_data(request: Request) -> Response:
    """Return the figures as JSON, which the page requests every few seconds."""
    return JSONResponse(await _state(request))


async def metrics(request: Request) -> Response:
    """Return the dashboard's own metrics, for Prometheus; a bearer token is required if there are tokens."""
    token = bearer_token(request.headers.get("authorization"))
    caller = await asyncio.to_thread(app_context(request).sessions.bearer, token)
    caller.require(*ACCESS["metrics"], to="read metrics")
    return Response(exposition(app_context(request).live), media_type=CONTENT_TYPE_LATEST)


async def _state(request: Request) -> dict[str, Any]:
    """Return the attributor's figures; if there are none, `problem` gives the reason."""
    context = app_context(request)
    overview = await context.live.state()
    state: dict[str, Any] = {
        "images_per_minute": overview["images_per_minute"],
        "mean_quality": overview["mean_quality"],
        "sequence": overview["sequence"],
        "at_ms": round(time.time() * 1000),
        "problem": "",
    }
    if not context.settings.metrics_url:
        problem = "This dashboard knows no metrics: start the attributor with --metrics 127.0.0.1:9464, and the "
        return state | {"problem": f"{problem}dashboard with --metrics http://127.0.0.1:9464/metrics.", "known": False}
    try:
        return state | {"known": True} | operations(await asyncio.to_thread(scrape, context.settings.metrics_url))
    except Unavailable as error:
        return state | {"problem": f"{error}. Trying again.", "known": False}
