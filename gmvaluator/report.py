"""The JSON report of a measurement: figures, machine, command and commit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_LIBRARIES = ("torch", "numpy", "grpcio", "qdrant-client", "qdrant-edge-py")


def report(figures: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return `figures` (flat, units in the names) with the machine, the command and the commit."""
    return {"figures": dict(figures), "machine": machine(), "command": command, "commit": commit()}


def write_report(figures: Mapping[str, Any], command: str, output: Path | None) -> None:
    """Write the report as JSON to `output`, or to standard output if that is None."""
    text = json.dumps(report(figures, command), indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, memory, and versions of Python and libraries."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def commit() -> str:
    """Return the commit, with `-dirty` if files differ from it; "unknown" outside a checkout or without git."""
    if not (_ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - git with our own words
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
