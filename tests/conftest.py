"""Settings of every test."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests.support.qdrant_server import QdrantServer, running_server

# No test asserts a time: a busy machine must not fail a property.
settings.register_profile("gmvaluator", deadline=None)
settings.load_profile("gmvaluator")


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """Undo what a program run in this process set up: its loggers write to streams that are closed by now."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """A Qdrant server; take `index_places` for a collection of the test's own."""
    with running_server(tmp_path_factory.mktemp("qdrant")) as server:
        yield server
