"""Settings of every test."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# No test asserts a time: a busy machine must not fail a property.
settings.register_profile("gmvaluator", deadline=None)
settings.load_profile("gmvaluator")


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """Undo what a program run in this process set up: its loggers write to streams that are closed by now."""
    yield
    structlog.reset_defaults()
