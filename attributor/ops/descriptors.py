"""File descriptors: the process may open as many as its connections need."""

from __future__ import annotations

import resource

from gmvaluator.errors import PreconditionFailed

OTHER_DESCRIPTORS = 256
"""File descriptors that the process needs in addition to its connections: databases, child processes, libraries."""


def allow_connections(count: int) -> None:
    """Raise the limit of open files as far as `count` connections need it.

    Raises PreconditionFailed if the process may not have that many.
    """
    needed = count + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise PreconditionFailed(
            f"{count:,} connections need {needed:,} open files, and this process may have {hard:,}: lower "
            "--max-connections, or raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
