"""A disk that takes no more: the attributor ends with an error, and what it had answered is there at the next start."""

import resource
from pathlib import Path

import pytest

from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import GmvaluatorError, Unavailable
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.programs import Attributor, gmvaluator, run


def test_a_ledger_that_cannot_be_written_ends_the_process_and_a_restart_recovers(
    data: Path, images: list[bytes]
) -> None:
    answered = {}
    with Attributor(data) as attributor, AttributorClient(attributor.address, deadline_s=30) as client:
        *_, final = client.attribute(images[0], "before", MODEL_VERSION)
        answered["before"] = final.issued_micros
        full = (data / "ledger.sqlite-wal").stat().st_size
        resource.prlimit(attributor.process.pid, resource.RLIMIT_FSIZE, (full, full))
        with pytest.raises(GmvaluatorError):  # noqa: PT012 - which of the calls meets the full disk is left open
            for number in range(50):
                *_, final = client.attribute(images[number], f"full:{number}", MODEL_VERSION)
                answered[final.generation_id] = final.issued_micros
        assert attributor.process.wait(60) == 1
    with Attributor(data) as attributor, AttributorClient(attributor.address) as client:
        *_, final = client.attribute(images[1], "after", MODEL_VERSION)
        answered["after"] = final.issued_micros
    totals = gmvaluator("ledger", "totals", "--data", data)
    assert totals["postings"] == len(answered)
    assert totals["issued_micros"] == sum(answered.values())
    assert totals["reconciles"]
    assert gmvaluator("ledger", "verify", "--data", data)["ok"]


def test_a_ledger_that_is_gone_ends_the_process_and_no_other_is_begun_in_silence(
    data: Path, images: list[bytes]
) -> None:
    with Attributor(data) as attributor, AttributorClient(attributor.address, deadline_s=30) as client:
        *_, _ = client.attribute(images[0], "before", MODEL_VERSION)
        (data / "ledger.sqlite").rename(data / "elsewhere")
        with pytest.raises(Unavailable):
            list(client.attribute(images[1], "lost", MODEL_VERSION))
        assert attributor.process.wait(60) == 1
    refused = run("serve", "--data", data, "--address", "127.0.0.1:0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "or begin another by `gmvaluator serve --new-ledger`" in refused.stderr.replace("\n", " ")
    with Attributor(data, "--new-ledger") as attributor, AttributorClient(attributor.address) as client:
        *_, final = client.attribute(images[1], "lost", MODEL_VERSION)
        assert final.sequence == 1
