"""Clients of the attributor, which call it with the token of the signed-in user or of the dashboard."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.requests import Request

from dashboard.web.context import app_context, session
from gmvaluator.errors import PreconditionFailed

if TYPE_CHECKING:
    from gmvaluator.client.sync import AttributorClient

CALL_S = 30.0
"""Timeout of a call, in seconds."""

MAX_CLIENTS = 64
"""Maximum number of clients, one per token, whose connections are kept."""


def attributor_client(request: Request, own_name: bool = True) -> AttributorClient:
    """Return a client of the attributor. own_name: use the session's token, else the dashboard's (GMV_TOKEN).

    Raises PreconditionFailed if no attributor is configured.
    """
    server = app_context(request).settings.server
    if not server:
        raise PreconditionFailed("this dashboard knows no attributor: start it with --server HOST:PORT")
    return _client(server, session(request).token if own_name else "")


@lru_cache(maxsize=MAX_CLIENTS)
def _client(server: str, token: str) -> AttributorClient:
    # Imported here, as gRPC takes 30 MB of memory that a dashboard without an attributor does not need.
    from gmvaluator.client.connection import Connection
    from gmvaluator.client.sync import AttributorClient

    connection = Connection.from_environment(address=server)
    if token:
        connection = replace(connection, token=token, token_file=None)
    return AttributorClient(connection, CALL_S)
