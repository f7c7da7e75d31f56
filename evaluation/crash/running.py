"""Running the kills in a process of their own, which forks and therefore must have no threads."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from gmvaluator.errors import Failure


def run_kills_apart(kills: int, seed: int) -> dict[str, Any]:
    """See `evaluation.crash.kills.run_kills`; the ledger is in a temporary folder. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="gmvaluator-kills-") as folder:
        words = ["--kills", str(kills), "--seed", str(seed), "--folder", folder]
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "evaluation.crash.kills", *words], stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode != 0:
        raise Failure(f"the kills ended with exit code {done.returncode}; the message is above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
