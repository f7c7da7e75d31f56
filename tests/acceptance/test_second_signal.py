"""A second SIGTERM while calls are answered: they are cut off, and nothing accepted is lost or doubled."""

import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from evaluation.bench.serving.setup import MODEL_VERSION, stub_data
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Unavailable
from gmvaluator.ledger.store import open_ledger
from tests.support.programs import Attributor

SLOW = ("--profile", "stub:image_ms=500", "--max-batch", "1")
FAST = ("--profile", "stub")
CALLERS = 8


@dataclass
class Sent:
    """Generations by what became of them: issued micro-credits if they were answered."""

    answered: dict[str, int] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)

    def call(self, client: AttributorClient, image: bytes, caller: int) -> None:
        """Send image after image until a call fails."""
        for number in range(1_000):
            name = f"{caller}:{number}"
            self.under_way.add(name)
            try:
                *_, final = client.attribute(image, name, MODEL_VERSION)
            except Unavailable:
                self.cut.append(name)
                return
            self.answered[name] = final.issued_micros
            self.under_way.discard(name)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_data(tmp_path_factory.mktemp("second"), 1_000)


def wait_until_it_drains(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=60):
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


def test_a_second_signal_cuts_off_what_the_first_lets_end(stubs: Path, images: list[bytes]) -> None:
    sent = Sent()
    with Attributor(stubs, *SLOW) as attributor, AttributorClient(attributor.address) as client:
        threads = [threading.Thread(target=sent.call, args=(client, images[0], number)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        while len(sent.answered) < 2:
            threads[0].join(0.01)
        attributor.process.send_signal(signal.SIGTERM)
        wait_until_it_drains(attributor.address)
        begun = set(sent.under_way)
        attributor.process.send_signal(signal.SIGTERM)
        assert attributor.process.wait(60) == 0
        for thread in threads:
            thread.join()
    assert begun & set(sent.cut), "everything was answered: the second signal did nothing"
    assert begun <= {*sent.cut, *sent.answered}
    with open_ledger(stubs) as ledger:
        posted = {one.header.generation_id: one.header.issued_micros for one in ledger.every_posting()}
        assert ledger.verify().ok
    assert sent.answered.items() <= posted.items()
    assert set(posted) <= {*sent.answered, *sent.cut}

    with Attributor(stubs, *FAST) as attributor, AttributorClient(attributor.address) as client:
        for name in sent.cut:
            *_, final = client.attribute(images[0], name, MODEL_VERSION)
            assert posted.get(name, final.issued_micros) == final.issued_micros
    with open_ledger(stubs) as ledger:
        assert ledger.totals().postings == len(sent.answered) + len(sent.cut)
        assert ledger.totals().reconciles
