"""Generator of the blocking client: `gmvaluator/client/sync.py` from `aio.py`, by unasync.

`python -m tests.checks.sync_client` writes the file; `make client` calls it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from unasync import Rule, unasync_files

ROOT = Path(__file__).parents[2]
SOURCE, TARGET = ROOT / "gmvaluator/client/aio.py", ROOT / "gmvaluator/client/sync.py"

REPLACEMENTS = {
    "AsyncAttributorClient": "AttributorClient",
    "aio_channel": "channel_without_token",
    "asyncio": "time",  # `from asyncio import sleep`
}
"""Names in the asyncio client, each with its name in the blocking one. unasync itself knows those of the language."""

DOCSTRING = '"""A blocking client of the attributor. Generated from `aio.py` by `make client`: edit that file."""'


def generate() -> str:
    """Return the source of the blocking client, formatted and with sorted imports."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / SOURCE.name
        source.write_text(SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
        unasync_files([str(source)], [Rule(SOURCE.name, TARGET.name, REPLACEMENTS)])
        _, _, code = source.with_name(TARGET.name).read_text(encoding="utf-8").partition("\n")
    # Replaced names change the order of imports and the length of lines; `yield from` does not exist in the asyncio
    # client, so the loops that it replaces are left to ruff's UP028.
    fixed = _ruff(f"{DOCSTRING}\n{code}", "check", "--quiet", "--select", "I,UP028", "--fix", "--unsafe-fixes")
    return _ruff(fixed, "format", "--quiet")


def _ruff(code: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True, cwd=ROOT).stdout


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
