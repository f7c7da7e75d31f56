"""The engine's files: whole after a crash, sparse when copied, one generation in use."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from qdrant_client import grpc as messages

from gmvaluator.index.engine import server
from gmvaluator.index.engine.files import copy_tree, remove_tree
from gmvaluator.index.engine.generations import Description, Generations, Rebuild
from gmvaluator.index.engine.settings import CollectionSettings, HnswSettings, VectorSettings
from gmvaluator.index.engine.supported_api import CALLS, FIELDS, Refused, require_supported
from gmvaluator.index.engine.wire_points import from_value, to_value

RECALL = VectorSettings(512, "cosine", True, HnswSettings(16, 128, 10), "pq-x16", True)
SETTINGS = CollectionSettings({"recall": RECALL}, 1, None, 1)


def test_copies_are_equal_and_stay_sparse(tmp_path: Path) -> None:
    source = tmp_path / "source" / "deep"
    source.mkdir(parents=True)
    (source / "empty").touch()
    (source / "full").write_bytes(os.urandom(100_000))
    with (source / "sparse").open("wb") as sparse:
        sparse.seek(8 * 1024 * 1024)
        sparse.write(b"in the middle")
        sparse.truncate(32 * 1024 * 1024)
    copy_tree(tmp_path / "source", tmp_path / "copy")
    for path in source.iterdir():
        assert (tmp_path / "copy" / "deep" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "copy" / "deep" / "sparse").stat().st_blocks * 512 < 1024 * 1024


def test_removing_what_is_not_there_is_harmless(tmp_path: Path) -> None:
    remove_tree(tmp_path / "absent")


def test_generations_follow_one_another(tmp_path: Path) -> None:
    files = Generations(tmp_path)
    first = files.begin(Description(SETTINGS, {"a": 1}))
    assert (files.current(), files.description()) == (first, Description(SETTINGS, {"a": 1}))
    for folder in (first, files.next_generation()):
        folder.mkdir()
    second = files.next_generation()
    files.switch(second)
    assert (files.current(), files.next_generation().name) == (second, "generation-3")
    files.remove_leftovers()
    assert [path.name for path in tmp_path.glob("generation-*")] == ["generation-2"]


def test_no_generation_is_deleted_while_the_one_in_use_is_missing(tmp_path: Path) -> None:
    files = Generations(tmp_path)
    files.begin(Description(SETTINGS)).mkdir()
    files.switch(files.next_generation())
    with pytest.raises(ValueError, match="generation-2, which is not there"):
        files.remove_leftovers()
    assert (tmp_path / "generation-1").is_dir()


@pytest.mark.parametrize("text", ["", "generation-", "../generation-1", "generation-1/.."])
def test_a_damaged_current_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "CURRENT").write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        Generations(tmp_path).current()


def test_a_rebuild_is_wanted_until_the_generation_it_made_serves(tmp_path: Path) -> None:
    """The switch and the note of it are two files: whatever lies between them, the wish is fulfilled once."""
    files = Generations(tmp_path)
    files.begin(Description(SETTINGS, {"a": 1}))
    finer = replace(SETTINGS, segments=3)
    wanted = Description(SETTINGS, {"a": 1}, Rebuild("token", finer, {"b": 2}))
    files.describe(wanted)
    assert files.description() == wanted
    files.switch(tmp_path / "generation-2", "another")
    assert files.description() == wanted
    files.switch(tmp_path / "generation-3", "token")
    assert files.current() == tmp_path / "generation-3"
    assert files.description() == wanted.rebuilt() == Description(finer, {"a": 1, "b": 2})
    files.describe(files.description())
    assert files.description() == wanted.rebuilt()


def test_settings_survive_the_file() -> None:
    assert CollectionSettings.from_dict(json.loads(json.dumps(SETTINGS.as_dict()))) == SETTINGS


def test_points_wait_once_they_fill_a_kilobyte() -> None:
    small = CollectionSettings(
        {"recall": VectorSettings(64, "cosine", True, HnswSettings(), "pq-x16", True)}, 1, None, 1
    )
    never = CollectionSettings({"recall": RECALL}, 1, None, 0)
    assert not SETTINGS.needs_build(0)
    assert SETTINGS.needs_build(1)
    assert not small.needs_build(3)
    assert small.needs_build(4)
    assert not never.needs_build(1_000_000)


def test_json_survives_the_wire() -> None:
    value: dict[str, Any] = {"a": None, "b": True, "c": 1, "d": 1.5, "e": "x", "f": [1, "x", {"g": []}], "h": {}}
    assert from_value(to_value(value)) == value
    assert type(from_value(to_value(True))) is bool
    assert type(from_value(to_value(1.0))) is float


def test_the_table_names_calls_and_fields_that_exist() -> None:
    services = {
        "qdrant.Qdrant": messages.QdrantServicer,
        "qdrant.Collections": messages.CollectionsServicer,
        "qdrant.Points": messages.PointsServicer,
    }
    for service, calls in CALLS.items():
        assert all(hasattr(services[service], call) for call in calls)
    for name, fields in FIELDS.items():
        kind: type[Message] = getattr(messages, name)
        assert set(fields.split()) <= {field.name for field in kind.DESCRIPTOR.fields}, name


def test_a_field_deep_inside_is_found() -> None:
    supported = messages.Condition(field=messages.FieldCondition(key="a", match=messages.Match(keyword="x")))
    other = messages.Condition(field=messages.FieldCondition(key="a", range=messages.Range(gt=1)))
    nested = messages.Condition(filter=messages.Filter(must_not=[supported, other]))
    require_supported(messages.QueryPoints(filter=messages.Filter(must=[supported])))
    with pytest.raises(Refused, match=r"FieldCondition\.range"):
        require_supported(messages.QueryPoints(filter=messages.Filter(must=[supported, nested])))


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_LOG_BYTES", 10)
    log = tmp_path / "engine.log"
    for text in ("short", "a longer line"):
        log.write_text(text)
        server.bound_log(log)
    assert log.read_text() == ""
    assert (tmp_path / "engine.log.1").read_text() == "a longer line"
    server.bound_log(tmp_path / "absent")
