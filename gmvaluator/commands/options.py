"""Command-line options that several commands share, as decorators."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click
from click.core import ParameterSource

from gmvaluator.auth.secret_files import DATABASE_URL, secret, with_password
from gmvaluator.client.addresses import DEFAULT_SERVER
from gmvaluator.client.connection import Connection
from gmvaluator.commands.parameters import FILE, FOLDER
from gmvaluator.errors import InvalidInput
from gmvaluator.models.choice import DEFAULT_MODELS, ProfileChoice
from gmvaluator.storage.data_folder import DEFAULT_DATA, open_to_others
from gmvaluator.storage.database import DataLocation

Command = TypeVar("Command", bound=Callable[..., Any])

ADVANCED = "Advanced options"
"""Panel of a help page with the options that few need."""

_HOST_AND_PORT = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}")


def with_advanced_panel(command: Command) -> Command:
    """Show the options of the panel ADVANCED below the others in the command's help."""
    # Panels are shown in the order in which they are named, and those that are not named come first.
    return click.option_panel("Options")(command)


def data_option(command: Command) -> Command:
    """Add `--data DIR`, passed on as `data`."""
    return click.option(
        "--data",
        type=FOLDER,
        default=DEFAULT_DATA,
        envvar="GMV_DATA",
        show_default=True,
        callback=_warn_if_open,
        help="Folder of index, catalogue, ledger and thumbnails.",
    )(command)


def _warn_if_open(context: click.Context, parameter: click.Parameter, data: Path) -> Path:  # noqa: ARG001
    if warning := open_to_others(data):
        click.echo(f"gmvaluator: warning: {warning}", err=True)
    return data


def database_option(command: Command) -> Command:
    """Add `--database URL`, passed on as `database_url` with its password."""
    return click.option(
        "--database",
        "database_url",
        default="",
        envvar=DATABASE_URL,
        metavar="URL",
        callback=_resolve_database_url,
        help="PostgreSQL instead of the SQLite files in DATA; see `gmvaluator --help`.",
    )(command)


def _resolve_database_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the URL from the option or its secret files, with its password.

    Raises InvalidInput or PreconditionFailed.
    """
    if context.resilient_parsing:
        return value
    # click reads DATABASE_URL itself but does not know DATABASE_URL_FILE, nor that both at once are refused.
    source = context.get_parameter_source(parameter.name or "")
    if source is not ParameterSource.COMMANDLINE:
        value = secret(DATABASE_URL) or value
    return with_password(value)


def place_option(command: Command) -> Command:
    """Add `--data DIR` and `--database URL`, passed on as one `place`."""

    @wraps(command)
    def with_place(*args: Any, data: Path, database_url: str, **options: Any) -> Any:
        return command(*args, place=DataLocation(data, database_url), **options)

    return cast(Command, data_option(database_option(with_place)))


def index_option(command: Command) -> Command:
    """Add `--index URL`, passed on as `index_url`."""
    return click.option(
        "--index",
        "index_url",
        default="",
        envvar="QDRANT_URL",
        callback=_check_index_url,
        help="URL of a Qdrant server (API key in QDRANT_API_KEY or QDRANT_API_KEY_FILE); default: the embedded engine "
        "in DATA/index.",
    )(command)


def names_server(index: str) -> bool:
    """Return whether an index is named by the address of a server, and not by a folder."""
    return "://" in index or _HOST_AND_PORT.fullmatch(index) is not None


def _check_index_url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Raise InvalidInput for what would be taken for a folder, such as a host without a port."""
    if value and not names_server(value):
        raise InvalidInput(
            f"the index {value[:100]!r} is no URL of a Qdrant server: give http://HOST:6334, or name the folder of an "
            "embedded index by --data"
        )
    return value


def collection_option(command: Command) -> Command:
    """Add `--collection NAME`."""
    return click.option("--collection", default="works", show_default=True, help="Collection of the index.")(command)


def profile_option(command: Command) -> Command:
    """Add `--profile NAME`."""
    return click.option(
        "--profile", default="lite", envvar="GMV_PROFILE", show_default=True, help="Models that embed and score."
    )(command)


def choice_options(command: Command) -> Command:
    """Add `--profile NAME` and the profile's variants, passed on as one `choice`."""

    @wraps(command)
    def with_choice(*args: Any, profile: str, choice: ProfileChoice, **options: Any) -> Any:
        return command(*args, choice=replace(choice, profile=profile), **options)

    return cast(Command, profile_option(variant_options(with_choice)))


def variant_options(command: Command) -> Command:
    """Add the variants of profile `paper`, passed on as one `choice`."""

    @wraps(command)
    def with_choice(*args: Any, **options: Any) -> Any:
        names = [field.name for field in fields(ProfileChoice) if field.name != "profile"]
        variants = {name: options.pop(name) for name in names}
        return command(*args, choice=ProfileChoice("paper", **variants), **options)

    decorated = cast(Any, with_choice)
    for option in (_PRECISION, _CROPS, _QUALITY, _RERANK, _RECALL, _MODELS):
        decorated = option(decorated)
    return cast(Command, decorated)


_MODELS = click.option(
    "--models",
    panel=ADVANCED,
    type=FOLDER,
    default=DEFAULT_MODELS,
    envvar="GMV_MODELS_DIR",
    show_default=True,
    help="Folder of weight files; `gmvaluator models` fills it.",
)
_RECALL = click.option(
    "--recall",
    panel=ADVANCED,
    default="",
    envvar="GMV_RECALL",
    metavar="MODEL",
    help="Profile paper: ARCHITECTURE:TAG of open_clip, ARCHITECTURE:/path/to/checkpoint, or vgg16.",
)
_RERANK = click.option(
    "--rerank",
    panel=ADVANCED,
    default="",
    envvar="GMV_RERANK",
    metavar="MODEL",
    help="Profile paper: dreamsim:TYPE, lpips:alex, or none.",
)
_QUALITY = click.option(
    "--quality",
    panel=ADVANCED,
    default="",
    envvar="GMV_QUALITY",
    metavar="MODEL",
    help="Profile paper: a metric of pyiqa, lite, or off.",
)
_CROPS = click.option(
    "--crops",
    panel=ADVANCED,
    default=0,
    type=click.IntRange(0, 20),
    envvar="GMV_CROPS",
    help="Crops of an image that MANIQA scores; 0: all 20; fewer are faster but change the score.",
)
_PRECISION = click.option(
    "--precision",
    panel=ADVANCED,
    default="",
    envvar="GMV_PRECISION",
    help="What the models compute in: fp32, bf16 or int8.",
)


def limit_option(command: Command) -> Command:
    """Add `--limit N`."""
    return click.option(
        "--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Rows to list at most."
    )(command)


def json_option(command: Command) -> Command:
    """Add `--json`, passed on as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print data on stdout, as JSON.")(command)


_CONNECTION_OPTIONS = (
    click.option(
        "--server",
        default=DEFAULT_SERVER,
        envvar="GMV_SERVER",
        show_default=True,
        help="The attributor's HOST:PORT; for several: ip:port,ip:port or dns:///name:port.",
    ),
    click.option(
        "--token-file",
        type=FILE,
        envvar="GMV_TOKEN_FILE",
        help="File with the token; or set the token itself in GMV_TOKEN (arguments are visible in the process list).",
    ),
    click.option("--tls", is_flag=True, envvar="GMV_TLS", help="Use TLS, with the system's certificate authorities."),
    click.option("--tls-ca", type=FILE, envvar="GMV_TLS_CA", help="Use TLS, with this certificate authority (PEM)."),
    click.option(
        "--tls-cert", type=FILE, envvar="GMV_TLS_CERT", help="Client certificate (PEM), if the server requires one."
    ),
    click.option("--tls-key", type=FILE, envvar="GMV_TLS_KEY", help="Private key of the client certificate (PEM)."),
    click.option("--tls-name", default="", envvar="GMV_TLS_NAME", help="Name to expect in the server's certificate."),
    click.option(
        "--insecure", is_flag=True, envvar="GMV_INSECURE", help="Allow a token to be sent without TLS beyond loopback."
    ),
)


def connection_options(command: Command) -> Command:
    """Add `--server` and the options of token and TLS, passed on as one `connection`."""

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
        # The token itself is never an option: arguments are visible in the process list.
        token = Connection.from_environment().token
        connection = Connection(server, token, token_file, tls, tls_ca, tls_cert, tls_key, tls_name, insecure)
        return command(*args, connection=connection, **options)

    decorated: Callable[..., Any] = with_connection
    for option in reversed(_CONNECTION_OPTIONS):
        decorated = option(decorated)
    return cast(Command, decorated)
