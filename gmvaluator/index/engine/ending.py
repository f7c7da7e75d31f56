"""The end of an engine that can no longer trust its files or its memory."""

from __future__ import annotations

import logging
import os
from typing import NoReturn

BROKEN = 70
"""Exit code after a failed flush or a panic."""

_log = logging.getLogger(__name__)


def end_at_once(reason: str) -> NoReturn:
    """End the process without flushing: what was acknowledged is in the write-ahead log, and a failed flush is
    never tried again. The next user starts another engine, which recovers."""
    _log.critical("%s: ending at once", reason, exc_info=True)
    logging.shutdown()
    os._exit(BROKEN)
