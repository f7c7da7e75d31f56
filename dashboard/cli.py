"""The command `gmvaluator dashboard`: web pages over the ledger."""

from __future__ import annotations

import json
import logging
import sys
import webbrowser
from pathlib import Path

import rich_click as click
import structlog

from dashboard.web.settings import DEFAULT_ADDRESS, DashboardSettings
from gmvaluator.auth.listening import check_address
from gmvaluator.auth.secret_files import with_password
from gmvaluator.client.addresses import target_of
from gmvaluator.commands.options import index_option, json_option, place_option
from gmvaluator.commands.parameters import FILE
from gmvaluator.storage.database import DataLocation


@click.command()
@click.option("--ledger", default="", metavar="URL", hidden=True, help="The old name of --database.")
@click.option("--address", default=DEFAULT_ADDRESS, show_default=True, help="HOST:PORT; port 0: any that is free.")
@click.option("--server", default="", help="The attributor's HOST:PORT, or several, for previews and disputes.")
@click.option("--metrics", default="", metavar="URL", help="The attributor's metrics, for the operations page.")
@click.option(
    "--tokens",
    type=FILE,
    envvar="GMV_TOKENS",
    help="File of token hashes, made by `gmvaluator token new`; default: DATA/tokens.json, if it exists.",
)
@click.option("--secure-cookies", is_flag=True, help="Behind a proxy that terminates TLS: sessions over HTTPS only.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without TLS, or without tokens.")
@click.option(
    "--connections-per-address",
    default=200,
    show_default=True,
    type=click.IntRange(1, 2_000),
    help="Connections of one address; raise it behind a proxy.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the overview in a browser.")
@place_option
@index_option
@json_option
def dashboard(
    ledger: str,
    address: str,
    server: str,
    metrics: str,
    tokens: Path | None,
    secure_cookies: bool,
    insecure: bool,
    connections_per_address: int,
    open_browser: bool,
    place: DataLocation,
    index_url: str,
    as_json: bool,
) -> None:
    """Show in a browser, live, which owners earned how much and why; read the ledger and change nothing.

    Without tokens it listens on loopback alone, and everyone on this machine sees everything.

    Example: gmvaluator dashboard --data ./gmvaluator-data --server 127.0.0.1:50051
    """
    check_address(address)
    if server:
        target_of(server)
    # Imported here, as starlette and SQLAlchemy take a second that --help need not cost.
    from dashboard.figures.metrics import checked_url
    from dashboard.server import serve

    settings = DashboardSettings(
        place=location_of(place, ledger),
        address=address,
        server=server,
        index_url=index_url,
        metrics_url=checked_url(metrics) if metrics else "",
        tokens=tokens,
        secure_cookies=secure_cookies,
        insecure=insecure,
        connections_per_address=connections_per_address,
    )
    _log_to_stderr()

    def announce(url: str) -> None:
        click.echo(json.dumps({"url": url}) if as_json else f"The dashboard is at {url}")
        # A program that reads the URL through a pipe waits for it.
        sys.stdout.flush()
        if open_browser:
            webbrowser.open(url)

    serve(settings, announce)


def location_of(place: DataLocation, ledger: str) -> DataLocation:
    """Return the location with the value of the old option --ledger, a database URL or a data folder, if given."""
    if not ledger:
        return place
    if ledger.startswith(("postgres:", "postgresql:", "postgresql+psycopg:")):
        return DataLocation(place.folder, with_password(ledger))
    return DataLocation(Path(ledger))


def _log_to_stderr() -> None:
    """Log one JSON object per line to stderr, as stdout is for the command's output."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
