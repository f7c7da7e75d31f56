"""The HTTP server of the metrics: a bounded number of scrapes at once, of which none can keep another out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

MAX_SCRAPES = 8
"""Maximum number of connections at once; one more closes the oldest, which may never have sent a request."""

TIMEOUT_S = 5.0
"""Time that a connection may be silent."""


class _Handler(WSGIRequestHandler):
    """A handler that logs nothing and gives up on a silent caller."""

    timeout = TIMEOUT_S

    def log_message(self, *_: Any) -> None:
        return None


# A thread per connection without a limit would let half-requests take every thread and file descriptor.
class _Server(ThreadingWSGIServer):
    """A server that closes its oldest connection when there are too many."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._connections: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        with self._lock:
            if len(self._connections) >= MAX_SCRAPES:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing of callers that disconnect or are silent."""


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


def _answering_head(application: WSGIApplication) -> WSGIApplication:
    """Answer HEAD as GET, without the body: prometheus_client refuses it, and probes and proxies send it."""

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return application(environ, start_response)
        started: list[tuple[str, list[tuple[str, str]]]] = []
        start: Any = lambda status, headers, _=None: started.append((status, headers))  # noqa: E731
        body = b"".join(application({**environ, "REQUEST_METHOD": "GET"}, start))
        ((status, headers),) = started
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return []

    return answer


def start_metrics_server(host: str, port: int, registry: CollectorRegistry) -> int:
    """Serve the metrics of `registry` from a thread until the process ends; return the port. Raises OSError."""
    kind = _Ipv6Server if ":" in host else _Server
    server = make_server(host, port, _answering_head(make_wsgi_app(registry)), kind, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_port)
