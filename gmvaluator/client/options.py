"""Command-line options of commands that talk to an attributor."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click

from gmvaluator.client.connection import DEFAULT_SERVER, Connection

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--server",
        default=DEFAULT_SERVER,
        envvar="GMV_SERVER",
        show_default=True,
        help="host:port; several: ip:port,ip:port or dns:///name:port.",
    ),
    click.option(
        "--token-file",
        type=_FILE,
        envvar="GMV_TOKEN_FILE",
        help="File with the token; or put the token itself into GMV_TOKEN (an argument shows in lists of processes).",
    ),
    click.option("--tls", is_flag=True, envvar="GMV_TLS", help="TLS, by the system's authorities."),
    click.option("--tls-ca", type=_FILE, envvar="GMV_TLS_CA", help="TLS, by this authority (PEM)."),
    click.option("--tls-cert", type=_FILE, envvar="GMV_TLS_CERT", help="Our certificate (PEM), if it is asked for."),
    click.option("--tls-key", type=_FILE, envvar="GMV_TLS_KEY", help="Its key (PEM)."),
    click.option("--tls-name", default="", envvar="GMV_TLS_NAME", help="Name in the server's certificate."),
    click.option("--insecure", is_flag=True, envvar="GMV_INSECURE", help="Send a token without TLS beyond loopback."),
)


def connection_options(command: Command) -> Command:
    """`--server`, the token and TLS, handed over as one `connection`."""

    @wraps(command)
    def with_connection(
        *args: Any,
        server: str,
        token_file: Path | None,
        tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_name: str,
        insecure: bool,
        **options: Any,
    ) -> Any:
        token = Connection.from_environment().token
        connection = Connection(server, token, token_file, tls, tls_ca, tls_cert, tls_key, tls_name, insecure)
        return command(*args, connection=connection, **options)

    decorated: Callable[..., Any] = with_connection
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return cast(Command, decorated)
