"""Calls to the attributor: in the name of whoever is signed in, by their own token."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.requests import Request

from dashboard.web.context import desk, session
from gmvaluator.errors import PreconditionFailed

if TYPE_CHECKING:
    from gmvaluator.client.sync import AttributorClient

CALL_S = 30.0
MAX_CLIENTS = 64


def attributor_client(request: Request, own_name: bool = True) -> AttributorClient:
    """A client of the attributor. own_name: with the session's token; otherwise with the dashboard's (GMV_TOKEN).

    Raises PreconditionFailed if the dashboard was started without one.
    """
    server = desk(request).settings.server
    if not server:
        raise PreconditionFailed("this dashboard knows no attributor: start it with --server HOST:PORT")
    return _client(server, session(request).token if own_name else "")


@lru_cache(maxsize=MAX_CLIENTS)
def _client(server: str, token: str) -> AttributorClient:
    # gRPC takes 30 MB: a dashboard that only shows never loads it.
    from gmvaluator.client.connection import Connection
    from gmvaluator.client.sync import AttributorClient

    connection = Connection.from_environment(address=server)
    if token:
        connection = replace(connection, token=token, token_file=None)
    return AttributorClient(connection, CALL_S)
