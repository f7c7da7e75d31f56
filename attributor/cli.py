"""Command `gmvaluator serve`, whose options are generated from the fields of AttributorSettings."""

from __future__ import annotations

import asyncio
import json
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click

from attributor.ops.log_writer import log_to
from attributor.settings import DEFAULT_ADDRESS, AttributorSettings
from gmvaluator.auth.listening import check_address
from gmvaluator.commands.options import (
    ADVANCED,
    choice_options,
    index_option,
    json_option,
    place_option,
    with_advanced_panel,
)
from gmvaluator.commands.parameters import FILE, FiniteRange
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.storage.database import DataLocation

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = ("_ms", "_s")
"""Unit suffixes of field names, which the option names omit."""


_USUAL = frozenset(
    ("address", "metrics", "health", "tokens", "insecure", "tls-cert", "tls-key", "keep-images", "device", "workers")
)
"""Options that stand in front in the help."""


def settings_options(command: Command) -> Command:
    """Add an option with a GMV_* variable for each setting; the command gets all of them as `settings`."""
    settings_fields = [field for field in fields(AttributorSettings) if "help" in field.metadata]

    @wraps(command)
    def with_settings(*args: Any, place: DataLocation, index_url: str, choice: ProfileChoice, **options: Any) -> Any:
        values = {field.name: options.pop(field.name) for field in settings_fields}
        settings = AttributorSettings(
            place.folder, index=index_url, profile=choice, database_url=place.database_url, **values
        )
        return command(*args, settings=settings, **options)

    decorated = place_option(index_option(choice_options(with_settings)))
    # click lists options in the order of decorators, from the outermost.
    for field in reversed(settings_fields):
        decorated = _option(field)(decorated)
    return cast(Command, decorated)


def _option(field: Field[Any]) -> Callable[[Any], Any]:
    name = option_name(field.name)
    kind = _kind(field)
    flag = f"--{name}/--no-{name}" if kind is bool and field.default is None else f"--{name}"
    return click.option(
        flag,
        field.name,
        default=field.default,
        type=None if kind is bool else _type(kind, field.metadata["limits"], field.metadata["choices"]),
        is_flag=kind is bool,
        envvar="GMV_" + name.upper().replace("-", "_"),
        show_default=field.default not in (None, "", False),
        panel=None if name in _USUAL else ADVANCED,
        help=field.metadata["help"],
    )


def option_name(field_name: str) -> str:
    """Return the option name of a field, without the unit, which the help names: `max-delay` for `max_delay_ms`."""
    for unit in _UNITS:
        field_name = field_name.removesuffix(unit)
    return field_name.replace("_", "-")


def _kind(field: Field[Any]) -> Any:
    """Return the field's type without None."""
    kind = typing.get_type_hints(AttributorSettings)[field.name]
    if isinstance(kind, types.UnionType):
        return next(member for member in typing.get_args(kind) if member is not type(None))
    return kind


def _type(kind: Any, limits: tuple[float, float] | None, choices: tuple[str, ...]) -> Any:
    if choices:
        return click.Choice(choices)
    if kind is Path:
        return FILE
    if limits is None:
        return kind
    low, high = limits
    return click.IntRange(int(low), int(high)) if kind is int else FiniteRange(low, high)


@click.command()
@with_advanced_panel
@settings_options
@click.option("--new-ledger", is_flag=True, help="Begin another ledger, because the data folder's own is gone.")
@json_option
def serve(settings: AttributorSettings, new_ledger: bool, as_json: bool) -> None:
    """Run the attributor, a gRPC service: generated images in, credits out.

    SIGTERM drains: health says NOT_SERVING, calls in flight end, then the process does; a second SIGTERM ends it
    sooner. Without tokens it listens on loopback alone, unless --insecure is given.

    Example: gmvaluator serve --data ./gmvaluator-data --address 127.0.0.1:50051
    """
    # gRPC would take an address that it does not understand for another one, without an error.
    check_address(settings.address)
    for option, address in (("--metrics", settings.metrics), ("--health", settings.health)):
        check_address(address or DEFAULT_ADDRESS, option)
    # Imported here, since `--help` must not load grpc and the models.
    from attributor.server import serve as run
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()

    log_to_stderr()
    if new_ledger:
        _begin_ledger(settings)

    def announce(bound: str, metrics: str) -> None:
        addresses = {"address": bound} | ({"metrics": metrics} if metrics else {})
        text = f"SERVING on {bound}" + (f", metrics on {metrics}" if metrics else "")
        click.echo(json.dumps(addresses) if as_json else text)
        sys.stdout.flush()

    asyncio.run(run(settings, announce))


def _begin_ledger(settings: AttributorSettings) -> None:
    from gmvaluator.ledger.store import open_ledger

    open_ledger(settings.place, write=True, new=True).close()


def log_to_stderr() -> None:
    """Write the log to stderr, one JSON object a line; stdout is for the command's results."""
    from attributor.ops.metrics import dropped_log_lines

    log_to(sys.stderr, dropped_log_lines.inc)
