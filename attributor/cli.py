"""`gmvaluator serve`: the attributor."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from pathlib import Path

import rich_click as click
import structlog

from attributor.settings import DEFAULT_ADDRESS, AttributorSettings
from gmvaluator.auth import TOKENS_FILE
from gmvaluator.database.place import Place
from gmvaluator.errors import InvalidInput
from gmvaluator.options import index_option, json_option, place_option, profile_option

MAX_PORT = 65_535


@click.command()
@click.option(
    "--address", default=DEFAULT_ADDRESS, envvar="GMV_ADDRESS", show_default=True, help="host:port; port 0: any."
)
@click.option("--device", default="cpu", show_default=True, help="Where the models run.")
@click.option("--max-batch", default=32, show_default=True, type=click.IntRange(1, 1024), help="Images a forward pass.")
@click.option("--max-in-flight", default=128, show_default=True, type=click.IntRange(1, 10_000), help="Calls at once.")
@click.option("--decoders", default=2, show_default=True, type=click.IntRange(1, 64), help="Processes that decode.")
@click.option(
    "--max-delay",
    "max_delay_ms",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 1_000),
    help="Milliseconds a batch waits for images on their way.",
)
@click.option("--max-in-flight", default=128, show_default=True, type=click.IntRange(1, 10_000), help="Images at once.")
@click.option(
    "--max-pixels-in-flight",
    default=100_000_000,
    show_default=True,
    type=click.IntRange(25_000_000),
    help="Pixels of all images at once, 250,000 a call added.",
)
@click.option("--model-threads", default=0, type=click.IntRange(0, 256), help="CPU threads of the models; 0: torch's.")
@click.option("--drain", "drain_s", default=25.0, show_default=True, type=click.FloatRange(0, 600), help="Seconds.")
@click.option("--reflection/--no-reflection", default=True, show_default=True, help="gRPC server reflection.")
@click.option(
    "--tokens",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="GMV_TOKENS",
    help=f"File of token hashes, made by `gmvaluator token new`; default: DATA/{TOKENS_FILE}, if it is there.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond loopback, though without tokens or without TLS.")
@place_option
@index_option
@profile_option
@json_option
def serve(
    address: str,
    device: str,
    max_batch: int,
    max_delay_ms: float,
    max_in_flight: int,
    decoders: int,
    max_pixels_in_flight: int,
    model_threads: int,
    drain_s: float,
    reflection: bool,
    tokens: Path | None,
    insecure: bool,
    place: Place,
    index_url: str,
    profile: str,
    as_json: bool,
) -> None:
    """Run the attributor, a gRPC service: generated images in, credits out.

    SIGTERM drains: health says NOT_SERVING, calls in flight end, then the process does. Without
    tokens it listens on loopback alone, unless --insecure is given.

    Example: gmvaluator serve --data ./gmvaluator-data --address 127.0.0.1:50051
    """
    check_address(address)
    from attributor.server import serve as run
    from gmvaluator.models.process import prepare_process

    prepare_process()

    settings = AttributorSettings(
        data=place.folder,
        database_url=place.database_url,
        index=index_url,
        profile=profile,
        device=device,
        address=address,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        max_in_flight=max_in_flight,
        decoders=decoders,
        max_pixels_in_flight=max_pixels_in_flight,
        model_threads=model_threads,
        drain_s=drain_s,
        reflection=reflection,
        tokens=tokens,
        insecure=insecure,
    )
    _log_to_stderr()

    def announce(bound: str) -> None:
        click.echo(json.dumps({"address": bound}) if as_json else f"SERVING on {bound}")
        sys.stdout.flush()

    asyncio.run(run(settings, announce))


def check_address(address: str) -> None:
    """Raises InvalidInput unless `address` is HOST:PORT; gRPC would listen elsewhere without a word."""
    match = re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", address)
    if match is None or int(match[1]) > MAX_PORT:
        raise InvalidInput(f"--address {address[:60]!r} is refused: give HOST:PORT, with PORT from 0 to {MAX_PORT}")


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
