"""Types of the commands' parameters, stricter than click's: paths that are not empty, and finite numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import rich_click as click


class PathParameter(click.Path):
    """A path, as a `pathlib.Path`. An empty one is refused: a script's unset variable would mean the current folder."""

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = True, exists: bool = False) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty: name a file or folder", param, ctx)
        return super().convert(value, param, ctx)


FILE = PathParameter(dir_okay=False)
"""A file, which need not exist."""

FOLDER = PathParameter(file_okay=False)
"""A folder, which need not exist."""

ANY_PATH = PathParameter()
"""A file or a folder, which need not exist."""


class FiniteRange(click.FloatRange):
    """A number within limits; NaN, which no comparison excludes, and infinity are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number
