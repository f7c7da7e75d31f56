"""Which processes still run."""

import time
from pathlib import Path

import psutil

ENDS_WITHIN_S = 15.0


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that name `folder`, once those that are ending had time to."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while (found := _running(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _running(folder: Path) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line and "pytest" not in line]
