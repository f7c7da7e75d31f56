"""`gmvaluator serve`: the attributor.

The command's options, made of the fields of its settings.
"""

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
from gmvaluator.commands.options import choice_options, index_option, json_option, place_option
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.storage.database import DataLocation

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = ("_ms", "_s")


def settings_options(command: Command) -> Command:
    """One option and one GMV_* variable for each setting, handed over as one `settings`."""
    own = [one for one in fields(AttributorSettings) if "help" in one.metadata]

    @wraps(command)
    def with_settings(*args: Any, place: DataLocation, index_url: str, choice: ProfileChoice, **options: Any) -> Any:
        chosen = {one.name: options.pop(one.name) for one in own}
        settings = AttributorSettings(
            place.folder, index=index_url, profile=choice, database_url=place.database_url, **chosen
        )
        return command(*args, settings=settings, **options)

    decorated = place_option(index_option(choice_options(with_settings)))
    for one in reversed(own):
        decorated = _option(one)(decorated)
    return cast(Command, decorated)


def _option(one: Field[Any]) -> Callable[[Any], Any]:
    name = option_name(one.name)
    kind = _kind(one)
    flag = f"--{name}/--no-{name}" if kind is bool and one.default is None else f"--{name}"
    return click.option(
        flag,
        one.name,
        default=one.default,
        type=None if kind is bool else _type(kind, one.metadata["limits"], one.metadata["choices"]),
        is_flag=kind is bool,
        envvar="GMV_" + name.upper().replace("-", "_"),
        show_default=one.default not in (None, "", False),
        help=one.metadata["help"],
    )


def option_name(field_name: str) -> str:
    """`max_delay_ms` is `max-delay`: the unit stands in the help."""
    for unit in _UNITS:
        field_name = field_name.removesuffix(unit)
    return field_name.replace("_", "-")


def _kind(one: Field[Any]) -> Any:
    """The field's type, without None."""
    kind = typing.get_type_hints(AttributorSettings)[one.name]
    if isinstance(kind, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _type(kind: Any, limits: tuple[float, float] | None, choices: tuple[str, ...]) -> Any:
    if choices:
        return click.Choice(choices)
    if kind is Path:
        return click.Path(dir_okay=False, path_type=Path)
    if limits is None:
        return kind
    low, high = limits
    return click.IntRange(int(low), int(high)) if kind is int else click.FloatRange(low, high)


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
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()

    log_to_stderr()

    def announce(bound: str, metrics: str) -> None:
        where = {"address": bound} | ({"metrics": metrics} if metrics else {})
        said = f"SERVING on {bound}" + (f", metrics on {metrics}" if metrics else "")
        click.echo(json.dumps(where) if as_json else said)
        sys.stdout.flush()

    asyncio.run(run(settings, announce))


def log_to_stderr() -> None:
    """Each line one JSON object; stdout is for what a command answers."""
    from attributor.ops.metrics import dropped_log_lines

    log_to(sys.stderr, dropped_log_lines.inc)
