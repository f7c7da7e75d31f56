"""One attributor for all tests of this folder; after each test the next good request must be served as before."""

import io
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from PIL import Image

from gmvaluator.auth.secret_files import own_environment
from gmvaluator.client.connection import Connection
from gmvaluator.v1 import attribution_pb2 as v1

MODEL_VERSION = "demo"
MEMORY_BYTES = 64 * 1024 * 1024
DEADLINE_S = 60
SETTLES_S = 10


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


GOOD = encoded(Image.effect_noise((48, 40), 70).convert("RGB"))


class Target:
    """The attributor that is attacked."""

    def __init__(self, address: str, process: psutil.Process) -> None:
        self.address = address
        self.process = process
        self.channel = Connection(address).channel()
        self._usual_bytes = 0

    def call(self, method: str, request: bytes | Any, service: str = "Attribution") -> tuple[str, list[bytes]]:
        """Call any method with a message, or raw bytes; return the status and the responses."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        answers: list[bytes] = []
        stub: Any = self.channel.unary_stream(f"/gmvaluator.v1.{service}Service/{method}")
        try:
            answers.extend(stub(data, timeout=DEADLINE_S))
        except grpc.RpcError as error:
            return error.code().name, answers
        return "OK", answers

    def attribute(self, image: bytes, generation: str = "", model_version: str = MODEL_VERSION) -> str:
        """Send an image; return the status."""
        name = generation or f"t:{uuid.uuid4()}"
        request = v1.AttributeRequest(generation_id=name, model_version=model_version, image=image)
        return self.call("Attribute", request)[0]

    def attribute_all(self, images: list[bytes]) -> list[str]:
        """Send many images at once; return the statuses."""
        stub: Any = self.channel.unary_stream("/gmvaluator.v1.AttributionService/Attribute")
        calls = []
        for image in images:
            request = v1.AttributeRequest(generation_id=f"t:{uuid.uuid4()}", model_version=MODEL_VERSION, image=image)
            calls.append(stub(request.SerializeToString(), timeout=DEADLINE_S))
        return [_status(call) for call in calls]

    def final(self, image: bytes) -> v1.Attribution:
        """Return FINAL of a preview."""
        status, answers = self.call("Preview", v1.PreviewRequest(model_version=MODEL_VERSION, image=image))
        assert status == "OK"
        return v1.PreviewResponse.FromString(answers[-1]).attribution

    def memory_bytes(self) -> int:
        """Return the resident memory of the attributor and its children."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in family)

    def settle(self) -> None:
        """Record the usual memory."""
        for _ in range(20):
            assert self.attribute(GOOD) == "OK"
        self._usual_bytes = self.memory_bytes()

    def check_unaffected(self) -> None:
        """Check that the next good request is served, and that memory is back to normal."""
        assert self.attribute(GOOD) == "OK"
        deadline = time.monotonic() + SETTLES_S
        while self.memory_bytes() - self._usual_bytes > MEMORY_BYTES:
            assert time.monotonic() < deadline, self.memory_by_process()
            time.sleep(0.1)

    def memory_by_process(self) -> dict[str, int]:
        """Return megabytes by process, for a failure message."""
        family = [self.process, *self.process.children(recursive=True)]
        return {" ".join(process.cmdline()[-4:]): process.memory_info().rss // 1_000_000 for process in family}


def _status(call: Any) -> str:
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@contextmanager
def served(data: Path) -> Iterator[Target]:
    """Run an attributor on a folder; it must exit with 0 and have logged no unexpected error."""
    command = [sys.executable, "-m", "tests.integration.hostile.program", str(data)]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=own_environment())
    assert process.stdout is not None
    target = Target(process.stdout.readline().strip(), psutil.Process(process.pid))
    yield target
    target.channel.close()
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()
    assert b'"broke"' not in (data / "log").read_bytes()


@pytest.fixture(scope="package")
def attributor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    data: Path = tmp_path_factory.mktemp("hostile")
    (data / "policies").mkdir()
    with served(data) as target:
        target.settle()
        yield target


@pytest.fixture
def target(attributor: Target) -> Iterator[Target]:
    """Yield the attributor, and check it after the test."""
    yield attributor
    attributor.check_unaffected()
