"""The environment of child processes that need no settings: what Python takes to start, and no secret."""

from __future__ import annotations

import os

_NAMES = frozenset(
    (
        *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "PATH", "LD_LIBRARY_PATH", "TMPDIR", "XDG_RUNTIME_DIR"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPATH"),
        *("PYTHONPYCACHEPREFIX", "PYTHONUTF8", "MALLOC_ARENA_MAX", "RAYON_NUM_THREADS", "RUST_BACKTRACE", "RUST_LOG"),
    )
)


def interpreter_environment() -> dict[str, str]:
    """Return those variables of this process's environment that an interpreter and its libraries need.

    An allow-list: the environment may contain secrets of any name, such as a cloud's keys.
    """
    return {name: value for name, value in os.environ.items() if name in _NAMES}
