"""The blocking client is what the generator makes of the asyncio one."""

import inspect

from gmvaluator.client.aio import AsyncAttributorClient
from gmvaluator.client.sync import AttributorClient
from tests.checks.sync_client import TARGET, generate


def test_the_blocking_client_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == generate(), "run `make client`, and commit gmvaluator/client/sync.py"


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    assert signatures(AsyncAttributorClient) == signatures(AttributorClient)


def signatures(client: type) -> dict[str, list[str]]:
    """Return the parameters of each public method by its name."""
    methods = inspect.getmembers(client, inspect.isfunction)
    return {name: list(inspect.signature(method).parameters) for name, method in methods if not name.startswith("_")}
