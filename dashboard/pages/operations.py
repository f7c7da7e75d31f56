"""How the attributor runs, by its own metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dashboard.figures.metrics import exposition, operations, scrape
from dashboard.web.access import ACCESS
from dashboard.web.context import desk, page
from gmvaluator.auth.authenticator import bearer_token
from gmvaluator.errors import Unavailable


async def operations_page(request: Request) -> Response:
    """Throughput, latency by stage, queue, refusals, recall and quality."""
    found = await _state(request)
    return page(request, "operations.html", title="Operations", found=found)


async def operations_data(request: Request) -> Response:
    """The same as JSON, which the page asks for every few seconds."""
    return JSONResponse(await _state(request))


async def metrics(request: Request) -> Response:
    """The dashboard's own metrics, for Prometheus; with a bearer token, where tokens are asked for."""
    token = bearer_token(request.headers.get("authorization"))
    caller = await asyncio.to_thread(desk(request).sessions.bearer, token)
    caller.require(*ACCESS["metrics"], to="read metrics")
    return Response(exposition(desk(request).live), media_type=CONTENT_TYPE_LATEST)


async def _state(request: Request) -> dict[str, Any]:
    """The attributor's metrics; `problem` says why there are none."""
    parts = desk(request)
    overview = await parts.live.state()
    found: dict[str, Any] = {
        "images_per_minute": overview["images_per_minute"],
        "mean_quality": overview["mean_quality"],
        "sequence": overview["sequence"],
        "at_ms": round(time.time() * 1000),
        "problem": "",
    }
    if not parts.settings.metrics_url:
        problem = "This dashboard knows no metrics: start the attributor with --metrics 127.0.0.1:9464, and the "
        return found | {"problem": f"{problem}dashboard with --metrics http://127.0.0.1:9464/metrics.", "known": False}
    try:
        return found | {"known": True} | operations(await asyncio.to_thread(scrape, parts.settings.metrics_url))
    except Unavailable as error:
        return found | {"problem": f"{error}. Trying again.", "known": False}
