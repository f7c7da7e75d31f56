"""When a call to the index is made again: where no harm comes of it, and the index did not say that it is slow.

Every call of ours can be repeated without harm: reads change nothing, and writes say what a point is to be, not by how
much it is to change. A call that ran into its deadline is not repeated, as that would add to what made it late.
"""

from __future__ import annotations

import random

import grpc

from gmvaluator.errors import IndexUnavailable

ATTEMPTS = 4
"""Times a call is made at most."""

FIRST_PAUSE_S = 0.1
_REPEATED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})
_jitter = random.SystemRandom()


def may_be_repeated(error: IndexUnavailable, attempt: int) -> bool:
    """Whether attempt number `attempt`, from 1, that ended so may be followed by another."""
    cause = error.__cause__
    return attempt < ATTEMPTS and isinstance(cause, grpc.RpcError) and cause.code() in _REPEATED


def pause_s(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt`: each time twice as long, and no two callers alike."""
    return FIRST_PAUSE_S * 2.0 ** (attempt - 1) * _jitter.uniform(0.5, 1.5)
