"""`gmvaluator serve`: the attributor."""

from __future__ import annotations

import asyncio
import json
import re
import sys

import rich_click as click

from attributor.log_lines import log_to
from attributor.options import settings_options
from attributor.settings import DEFAULT_ADDRESS, AttributorSettings
from gmvaluator.commands.options import json_option
from gmvaluator.errors import InvalidInput

MAX_PORT = 65_535


@click.command()
@settings_options
@json_option
def serve(settings: AttributorSettings, as_json: bool) -> None:
    """Run the attributor, a gRPC service: generated images in, credits out.

    SIGTERM drains: health says NOT_SERVING, calls in flight end, then the process does; a second SIGTERM ends it
    sooner. Without tokens it listens on loopback alone, unless --insecure is given.

    Example: gmvaluator serve --data ./gmvaluator-data --address 127.0.0.1:50051
    """
    check_address(settings.address)
    for option, address in (("--metrics", settings.metrics), ("--health", settings.health)):
        check_address(address or DEFAULT_ADDRESS, option)
    from attributor.server import serve as run
    from gmvaluator.models.process import prepare_process

    prepare_process()

    log_to_stderr()

    def announce(bound: str, metrics: str) -> None:
        where = {"address": bound} | ({"metrics": metrics} if metrics else {})
        said = f"SERVING on {bound}" + (f", metrics on {metrics}" if metrics else "")
        click.echo(json.dumps(where) if as_json else said)
        sys.stdout.flush()

    asyncio.run(run(settings, announce))


def check_address(address: str, option: str = "--address") -> None:
    """Raises InvalidInput unless `address` is HOST:PORT; gRPC would listen elsewhere without a word."""
    match = re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", address)
    if match is None or int(match[1]) > MAX_PORT:
        raise InvalidInput(f"{option} {address[:60]!r} is refused: give HOST:PORT, with PORT from 0 to {MAX_PORT}")


def log_to_stderr() -> None:
    """Each line one JSON object; stdout is for what a command answers."""
    from attributor.metrics import dropped_log_lines

    log_to(sys.stderr, dropped_log_lines.inc)
