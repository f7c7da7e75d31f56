"""The outbox delivers a submitted image once, whichever process ends in between."""

import asyncio
import importlib.util
import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from PIL import Image

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.client.outbox import Outbox, OutboxFile
from gmvaluator.errors import AlreadyHeld, Conflict, Failure, GmvaluatorError, ImageTooLarge, InvalidInput, Overloaded
from gmvaluator.testing.attributor import fake_attributor
from gmvaluator.v1 import attribution_pb2 as v1
from tests.support.waiting import until

NOWHERE = "127.0.0.1:1"
WAIT_S = 30


def test_submitted_images_are_delivered_once_and_reported(tmp_path: Path) -> None:
    stages: dict[str, int] = {}
    with fake_attributor() as attributor:
        attributor.fail_next(grpc.StatusCode.UNAVAILABLE)
        attributor.fail_next(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="10")
        attributor.fail_next(grpc.StatusCode.INTERNAL)
        with Outbox(
            tmp_path, attributor.address, on_delivered=lambda name, final: stages.update({name: final.stage})
        ) as outbox:
            for number in range(20):
                outbox.submit(b"x", f"g{number}", "m")
            assert outbox.flush(WAIT_S)
            assert outbox.waiting == 0
        assert set(attributor.posted) == set(stages)
    assert set(stages) == {f"g{number}" for number in range(20)}
    assert set(stages.values()) == {v1.STAGE_FINAL}


def test_submit_does_not_wait_for_an_absent_server_and_the_next_process_delivers(tmp_path: Path) -> None:
    with Outbox(tmp_path, NOWHERE) as outbox:
        for number in range(5):
            outbox.submit(bytes([number]), f"g{number}", "m")
        assert not outbox.flush(0.05)
    with fake_attributor() as attributor:
        with Outbox(tmp_path, attributor.address) as outbox:
            assert outbox.flush(WAIT_S)
        assert {request.generation_id: request.image for request in attributor.requests} == {
            f"g{number}": bytes([number]) for number in range(5)
        }
        assert all(request.HasField("generated_at") for request in attributor.requests)


def test_a_process_killed_right_after_submitting_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from gmvaluator.client.outbox import Outbox\n"
        f"outbox = Outbox(Path(sys.argv[1]), {NOWHERE!r})\n"
        "for number in range(7):\n    outbox.submit(b'x', f'g{number}', 'm')\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, env=own_environment())
    assert done.returncode == -9
    with fake_attributor() as attributor, Outbox(tmp_path, attributor.address) as outbox:
        assert outbox.flush(WAIT_S)
        assert set(attributor.posted) == {f"g{number}" for number in range(7)}


def test_an_undeliverable_image_is_kept_for_inspection(tmp_path: Path) -> None:
    refusals: list[tuple[str, GmvaluatorError]] = []
    with fake_attributor() as attributor:
        attributor.fail_next(grpc.StatusCode.INVALID_ARGUMENT)
        with Outbox(tmp_path, attributor.address, on_refused=lambda *refusal: refusals.append(refusal)) as outbox:
            outbox.submit(b"no image", "bad", "m")
            assert outbox.flush(WAIT_S)
        with Outbox(tmp_path, attributor.address) as outbox:
            assert outbox.flush(WAIT_S)
            (refused,) = outbox.refused()
            assert (refused.generation_id, refused.content) == ("bad", b"no image")
            assert "a scheduled failure" in (refused.refusal or "")
            outbox.discard(refused)
            assert outbox.refused() == []
        assert len(attributor.requests) == 1
    assert [(name, type(error)) for name, error in refusals] == [("bad", InvalidInput)]


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError])
def test_a_failing_callback_delays_no_image(
    tmp_path: Path, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str, _outcome: object) -> None:
        raise error(f"callback of {name}")

    with fake_attributor() as attributor:
        attributor.fail_next(grpc.StatusCode.INVALID_ARGUMENT)
        with Outbox(tmp_path, attributor.address, senders=1, on_delivered=broken, on_refused=broken) as outbox:
            for name in ("bad", "a", "b"):
                outbox.submit(b"x", name, "m")
            assert outbox.flush(WAIT_S)
        assert set(attributor.posted) == {"a", "b"}
    assert all(f"callback of {name}" in caplog.text for name in ("bad", "a", "b"))


@pytest.mark.parametrize("error", [Failure("the disk is full"), ValueError("no closed channel"), MemoryError()])
@pytest.mark.parametrize("method", ["get", "remove", "refuse"])
def test_an_image_is_delivered_after_the_disk_failed_for_a_while(
    tmp_path: Path, method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = getattr(OutboxFile, method)
    failures = [error]

    def failing(file: OutboxFile, *arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return working(file, *arguments)

    with fake_attributor() as attributor:
        if method == "refuse":
            for _ in range(2):
                attributor.fail_next(grpc.StatusCode.INVALID_ARGUMENT)
        with Outbox(tmp_path, attributor.address, senders=1) as outbox:
            monkeypatch.setattr(OutboxFile, method, failing)
            outbox.submit(b"x", "a", "m")
            assert outbox.flush(WAIT_S)
            assert len(outbox.refused()) == (method == "refuse")
        assert set(attributor.posted) == (set() if method == "refuse" else {"a"})


def test_a_thread_in_flush_delays_no_image(tmp_path: Path) -> None:
    with fake_attributor() as attributor, ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            attributor.fail_next(grpc.StatusCode.FAILED_PRECONDITION)  # Retried after a minute.
        with Outbox(tmp_path, attributor.address, senders=1) as outbox:
            outbox.submit(b"x", "a", "m")
            until(lambda: len(attributor.requests) == 1)
            flushed = pool.submit(outbox.flush, WAIT_S)
            time.sleep(0.1)  # Until both the sender and `flush` wait to be woken.
            outbox.submit(b"x", "b", "m")
            until(lambda: len(attributor.requests) == 2)
            time.sleep(0.1)
            outbox.submit(b"x", "c", "m")
            until(lambda: "c" in attributor.posted)
        assert not flushed.result()


def test_the_outbox_is_bounded_and_checks_its_arguments(tmp_path: Path) -> None:
    with Outbox(tmp_path, NOWHERE, max_bytes=100) as outbox:
        outbox.submit(b"x" * 60, "a", "m")
        outbox.submit(b"x" * 60, "a", "m")
        with pytest.raises(Overloaded):
            outbox.submit(b"x" * 60, "b", "m")
        with pytest.raises(Conflict):
            outbox.submit(b"y", "a", "m")
        with pytest.raises(InvalidInput):
            outbox.submit(b"x", "../evil", "m")
        with pytest.raises(ImageTooLarge):
            outbox.submit(b"x" * (21 * 1024 * 1024), "c", "m")
        assert outbox.waiting == 1
        with pytest.raises(AlreadyHeld):
            Outbox(tmp_path, NOWHERE)


async def test_embeddings_are_submitted_from_an_event_loop(tmp_path: Path) -> None:
    with fake_attributor() as attributor, Outbox(tmp_path, attributor.address) as outbox:
        await outbox.submit_async(v1.Embedding(quality=0.5, recall=[1.0]), "g", "m")
        assert await asyncio.to_thread(outbox.flush, WAIT_S)
        assert attributor.requests[0].embedding.quality == 0.5


def example() -> ModuleType:
    path = Path(__file__).parents[3] / "examples" / "diffusers" / "attribute_callback.py"
    spec = importlib.util.spec_from_file_location("attribute_callback", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Result:
    images: list[Image.Image] = field(default_factory=lambda: [Image.new("RGB", (8, 8), c) for c in ("red", "blue")])


def test_the_example_attributes_the_images_of_a_pipeline(tmp_path: Path) -> None:
    def pipeline(prompt: str, **options: Any) -> Result:
        assert (prompt, options) == ("a red fox", {"num_inference_steps": 2})
        return Result()

    with fake_attributor() as attributor, Outbox(tmp_path, attributor.address) as outbox:
        generate = example().Attributed(pipeline, outbox, "sdxl")
        assert len(generate("a red fox", num_inference_steps=2).images) == 2
        assert outbox.flush(WAIT_S)
        assert set(attributor.posted) == set(generate.generation_ids)
        assert {Image.open(io.BytesIO(request.image)).size for request in attributor.requests} == {(8, 8)}
