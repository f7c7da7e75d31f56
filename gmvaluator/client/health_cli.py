"""`gmvaluator health`: what a container's or a load balancer's probe runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import Exit

from gmvaluator.client.connection import DEFAULT_SERVER, Connection

SERVING = "SERVING"
_PAUSE_S = 0.2


@click.command()
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="host:port.")
@click.option("--tls-ca", type=click.Path(dir_okay=False, path_type=Path), help="TLS, by this authority (PEM).")
@click.option("--service", default="", help="Asked for; default: the whole server.")
@click.option("--timeout", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds.")
@click.option(
    "--wait", "wait_s", default=0.0, type=click.FloatRange(0, 3600), help="Ask for so many seconds until it is SERVING."
)
def health(server: str, tls_ca: Path | None, service: str, timeout: float, wait_s: float) -> None:
    """Ask an attributor by grpc.health.v1 how it is, and print the answer; exits 1 unless it is SERVING.

    Takes nothing from the environment, and needs no token.

    Example: gmvaluator health --server 127.0.0.1:50052
    """
    ends_at = time.monotonic() + wait_s
    with Connection(server, authority=tls_ca).channel() as channel:
        while True:
            answer = _answer(channel, server, service, timeout)
            if answer == SERVING or time.monotonic() >= ends_at:
                break
            time.sleep(_PAUSE_S)
    click.echo(answer)
    if answer != SERVING:
        raise Exit(1)


def _answer(channel: Any, server: str, service: str, timeout_s: float) -> str:
    """A status of the protocol, or why there is none."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        return f"{server}: {error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
