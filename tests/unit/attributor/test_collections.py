"""Open collections: refreshed without blocking the event loop, and closed when another profile has replaced them."""

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from attributor.core.collections import OpenCollections
from attributor.wiring import Parts
from gmvaluator.errors import ProfileMismatch
from gmvaluator.index.schema import CollectionMetadata
from gmvaluator.ports import Generator
from gmvaluator.testing.index import MemoryIndex, MemorySearch, MemoryStore
from gmvaluator.testing.models import FAKE_IDENTITY


def filled() -> tuple[MemoryIndex, OpenCollections]:
    index = MemoryIndex()
    MemoryStore(index).create(FAKE_IDENTITY)
    return index, OpenCollections(lambda name: MemorySearch(index), FAKE_IDENTITY)


async def test_a_collection_replaced_by_another_profiles_is_closed() -> None:
    index, collections = filled()
    await collections.refresh("works")
    index.metadata = CollectionMetadata(replace(FAKE_IDENTITY, recall_model="another"))
    with pytest.raises(ProfileMismatch):
        await collections.refresh("works")
    with pytest.raises(ProfileMismatch):
        await collections.search("works")
    index.metadata = CollectionMetadata(FAKE_IDENTITY)
    assert (await collections.refresh("works")).name == "works"


async def test_the_event_loop_runs_while_the_catalogue_is_read() -> None:
    gate = threading.Event()

    def generators() -> list[Generator]:
        assert gate.wait(10)
        return [Generator("m", "works", (), "paper@1")]

    _, collections = filled()
    nothing = cast(Any, None)
    catalogue = cast(Any, SimpleNamespace(generators=generators))
    pipeline = cast(Any, SimpleNamespace(policy_problem=lambda _: ""))
    parts = Parts(pipeline, nothing, collections, catalogue, nothing, nothing, nothing)
    checking = asyncio.create_task(parts.check_collections())
    await asyncio.sleep(0)
    gate.set()
    await checking
    assert await collections.measured_recall("works") is None


async def test_generators_are_logged_with_their_policies_when_they_change() -> None:
    _, collections = filled()
    registered = [Generator("m", "works", ("set",), "calibrated@2")]
    catalogue = cast(Any, SimpleNamespace(generators=lambda: list(registered)))
    nothing = cast(Any, None)
    problems = {"calibrated@2": "it was fitted to another profile", "paper@1": ""}
    pipeline = cast(Any, SimpleNamespace(policy_problem=lambda generator: problems[generator.policy]))
    parts = Parts(pipeline, nothing, collections, catalogue, nothing, nothing, nothing)
    with structlog.testing.capture_logs() as logged:
        await parts.check_collections()
        await parts.check_collections()
        registered[0] = replace(registered[0], policy="paper@1")
        await parts.check_collections()
    bound = [(line["model_version"], line["policy"]) for line in logged if line["event"] == "generator"]
    assert bound == [("m", "calibrated@2"), ("m", "paper@1")]
    warnings = [(line["generator"], line["why"]) for line in logged if line["log_level"] == "warning"]
    assert warnings == [("m", "it was fitted to another profile")]
