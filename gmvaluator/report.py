"""The one object that every measurement prints: figures, machine, command, commit."""

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
    """`figures` (flat, units in names) with what is needed to judge and repeat them."""
    return {"figures": dict(figures), "machine": machine(), "command": command, "commit": commit()}


def write_report(figures: Mapping[str, Any], command: str, output: Path | None) -> None:
    """The report as JSON into a file, or to standard output."""
    text = json.dumps(report(figures, command), indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, Python and library versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def commit() -> str:
    """The commit measured, with `-dirty` if files differ from it; "unknown" outside a checkout or without git."""
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
