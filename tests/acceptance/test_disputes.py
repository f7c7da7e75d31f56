"""Disputes over the wire, while the attributor goes on posting; decided by the operator afterwards."""

import shutil
import uuid
from pathlib import Path

import pytest

from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import Conflict, InvalidInput, NotFound
from gmvaluator.v1 import royalty_pb2 as v1
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.programs import Attributor, gmvaluator, run


def test_a_dispute_is_opened_over_the_wire_and_decided_on_the_command_line(
    indexed: Path, tmp_path: Path, images: list[bytes]
) -> None:
    data = Path(shutil.copytree(indexed, tmp_path / "data"))
    with Attributor(data) as attributor, AttributorClient(attributor.address) as client:
        for number, image in enumerate(images[:2]):
            paid = list(client.attribute(image, f"image-{number}", MODEL_VERSION))[-1]
        work = paid.contributors[0].training_image_id
        before = {one.account: one.balance_micros for one in client.royalties()}
        opened = client.open_dispute("case-1", "drawn by me", training_image_id=work)
        assert opened.status == v1.DISPUTE_STATUS_OPEN
        assert opened.held_micros >= paid.contributors[0].credit_micros > 0
        again = client.open_dispute("case-1", "drawn by me", training_image_id=work)
        assert again == opened
        with pytest.raises(Conflict, match="another generation_sequence"):
            client.open_dispute("case-1", "drawn by me", generation_id="image-1")
        with pytest.raises(NotFound):
            client.open_dispute("case-2", "mine", training_image_id=str(uuid.uuid4()))
        with pytest.raises(NotFound):
            client.open_dispute("case-2", "mine", generation_id="nothing")
        for wrong in ({}, {"training_image_id": "x"}, {"generation_id": "image-1", "claimant": "x"}):
            with pytest.raises(InvalidInput):
                client.open_dispute("case-2", "mine", **wrong)
        with pytest.raises(InvalidInput):
            client.open_dispute("case-2", "", generation_id="image-1")
        assert list(client.attribute(images[0], "image-0", MODEL_VERSION))[-1].replayed
        postings = client.watch_royalties(opened.sequence - 1)
        assert next(postings).generation_id == "dispute/case-1"
        assert run("ledger", "dispute", "hold", "case-1", "--data", data).returncode == 2
        assert attributor.stop() == 0
    assert gmvaluator("ledger", "dispute", "list", "--data", data)["disputes"][0]["held_micros"] == opened.held_micros
    words = ("case-1", "--reject", "--reason", "nothing was shown", "--data", data)
    assert gmvaluator("ledger", "dispute", "decide", *words)["status"] == "rejected"
    after = {one["owner_id"]: one["credit_micros"] for one in gmvaluator("ledger", "totals", "--data", data)["owners"]}
    assert after == {
        name.removeprefix("owner:"): amount for name, amount in before.items() if name.startswith("owner:")
    }
    assert gmvaluator("ledger", "verify", "--data", data)["ok"]
    assert gmvaluator("ledger", "replay", "--data", data)["different"] == []
