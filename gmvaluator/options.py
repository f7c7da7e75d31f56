"""Command-line options that several commands share, and where things lie in the data folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click

from gmvaluator.database.place import Place

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_DATA = "./gmvaluator-data"


def data_option(command: Command) -> Command:
    """`--data DIR`."""
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA,
        envvar="GMV_DATA",
        show_default=True,
        help="Folder of index, catalogue, ledger and thumbnails.",
    )(command)


def database_option(command: Command) -> Command:
    """`--database URL`."""
    return click.option(
        "--database",
        "database_url",
        default="",
        envvar="DATABASE_URL",
        metavar="URL",
        help="PostgreSQL, postgresql://USER@HOST/NAME; default: the SQLite files in DATA. Prefer DATABASE_URL: "
        "an argument shows in the list of processes.",
    )(command)


def place_option(command: Command) -> Command:
    """`--data DIR` and `--database URL`, handed over as one `place`."""

    @wraps(command)
    def with_place(*args: Any, data: Path, database_url: str, **options: Any) -> Any:
        return command(*args, place=Place(data, database_url), **options)

    return cast(Command, data_option(database_option(with_place)))


def index_option(command: Command) -> Command:
    """`--index URL`."""
    return click.option(
        "--index",
        "index_url",
        default="",
        envvar="QDRANT_URL",
        help="URL of a Qdrant server (API key in QDRANT_API_KEY); default: the embedded engine in DATA/index.",
    )(command)


def collection_option(command: Command) -> Command:
    """`--collection NAME`."""
    return click.option("--collection", default="works", show_default=True, help="Collection of the index.")(command)


def profile_option(command: Command) -> Command:
    """`--profile NAME`."""
    return click.option(
        "--profile", default="lite", envvar="GMV_PROFILE", show_default=True, help="Models that embed and score."
    )(command)


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Data on stdout, as JSON.")(command)


def index_location(data: Path, index_url: str) -> str | Path:
    """What the index is opened with: the server's URL, or the folder of the embedded engine."""
    return index_url or data / "index"


def thumbnails_folder(data: Path) -> Path:
    """Where the indexer keeps thumbnails."""
    return data / "thumbnails"


def generated_folder(data: Path) -> Path:
    """Where the attributor keeps thumbnails of generated images, if it keeps any."""
    return data / "generated"
