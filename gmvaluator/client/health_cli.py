"""`gmvaluator health`: what a container's or a load balancer's probe runs."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from gmvaluator.client.connection import DEFAULT_SERVER, Connection


@click.command()
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="host:port.")
@click.option("--tls-ca", type=click.Path(dir_okay=False, path_type=Path), help="TLS, by this authority (PEM).")
@click.option("--service", default="", help="Asked for; default: the whole server.")
@click.option("--timeout", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds.")
def health(server: str, tls_ca: Path | None, service: str, timeout: float) -> None:
    """Ask an attributor by grpc.health.v1 how it is, and print the answer; exits 1 unless it is SERVING.

    Takes nothing from the environment, and needs no token.

    Example: gmvaluator health --server 127.0.0.1:50052
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with Connection(server, authority=tls_ca).channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)  # type: ignore[attr-defined]
        except grpc.RpcError as error:
            click.echo(f"{server}: {error.code().name}: {error.details()}")
            raise Exit(1) from error
    click.echo(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Exit(1)
