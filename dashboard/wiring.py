"""The one place that puts the concrete parts together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from cryptography.fernet import Fernet

from dashboard.desk import Desk, environment
from dashboard.live import Live
from dashboard.overview import OverviewReader
from dashboard.session import Sessions, session_key
from dashboard.settings import DashboardSettings
from dashboard.sources import open_sources
from gmvaluator.auth.authenticator import Door, is_loopback
from gmvaluator.catalogue.store import KEY_FOLDER
from gmvaluator.errors import PreconditionFailed

_log = structlog.get_logger("dashboard")


@contextmanager
def wired(settings: DashboardSettings) -> Iterator[Desk]:
    """Everything open. Raises MissingData, or PreconditionFailed if anybody could come in from outside."""
    door = open_door(settings)
    with open_sources(settings) as sources:
        overview = OverviewReader(sources)
        live = Live(overview.read, lambda: sources.ledger.head().sequence, settings.update_s)
        yield Desk(settings, sources, Sessions(door, _key(settings), settings.session_s), live, environment())


def open_door(settings: DashboardSettings) -> Door:
    """Who is let in. Raises PreconditionFailed if the address can be reached from outside and no token is asked for."""
    door = Door(
        settings.tokens_file,
        required=settings.tokens is not None,
        on_problem=lambda problem: _log.error("tokens", problem=problem),
    )
    if door.open and not settings.insecure and not is_loopback(settings.address):
        raise PreconditionFailed(
            f"{settings.address} can be reached from other machines and there are no tokens: make one by "
            "`gmvaluator token new --role operator`, or say --insecure if everyone who can connect may see everything"
        )
    return door


def _key(settings: DashboardSettings) -> bytes:
    """The key of sessions; one of this process alone, where the data folder cannot be written."""
    try:
        return session_key(settings.place.folder / KEY_FOLDER)
    except OSError as error:
        _log.warning("sessions end when the dashboard does", why=str(error))
        return Fernet.generate_key()
