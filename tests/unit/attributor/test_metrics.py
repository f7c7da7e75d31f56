"""Metrics: what is counted when an image is answered or refused, and what a scrape says."""

import asyncio
import urllib.request
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from attributor.core.attribution import Attribution, Stage, Timings
from attributor.ops.metrics import (
    REGISTRY,
    RuntimeCollector,
    loop_watched,
    observe_batch,
    observe_collection,
    observe_final,
    observe_refusal,
    recall_watched,
    serve_metrics,
)
from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import CallGate
from attributor.workers.decoder_pool import DecoderCounts
from attributor.workers.model_worker import WorkerCounts
from gmvaluator.errors import ImageTooLarge, PreconditionFailed
from gmvaluator.ports import CollectionInfo

FINAL = Attribution(
    "g", "m", Stage.FINAL, (), 0.25, "paper@1", quality=0.75, issued_micros=750_000, unattributed_micros=187_500,
    sequence=3, head_hash=b"", timings=Timings(embed_ms=20.0, post_ms=2.0, total_ms=30.0),
)  # fmt: skip


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_posted_image_counts_its_credits_quality_and_stages() -> None:
    names = ("gmvaluator_issued_credits_total", "gmvaluator_unattributed_credits_total", "gmvaluator_quality_count")
    before = [value(name) for name in names]
    embeds, posted = (
        value("gmvaluator_stage_seconds_sum", stage="embed"),
        value("gmvaluator_images_total", how="posted"),
    )
    observe_final(FINAL)
    assert [value(name) - was for name, was in zip(names, before, strict=True)] == [0.75, 0.1875, 1]
    assert value("gmvaluator_stage_seconds_sum", stage="embed") - embeds == pytest.approx(0.02)
    assert value("gmvaluator_images_total", how="posted") == posted + 1


def test_replays_and_previews_pay_nothing() -> None:
    credits_before = value("gmvaluator_issued_credits_total")
    for how, final in (("replayed", replace(FINAL, replayed=True)), ("preview", replace(FINAL, sequence=None))):
        before = value("gmvaluator_images_total", how=how)
        observe_final(final)
        assert value("gmvaluator_images_total", how=how) == before + 1
    assert value("gmvaluator_issued_credits_total") == credits_before


def test_refusals_are_counted_by_reason_and_batches_by_size() -> None:
    reasons = {"ImageTooLarge": ImageTooLarge("x"), "unexpected": ZeroDivisionError()}
    for reason, error in reasons.items():
        before = value("gmvaluator_refusals_total", reason=reason)
        observe_refusal(error)
        assert value("gmvaluator_refusals_total", reason=reason) == before + 1
    before = value("gmvaluator_batch_images_sum")
    observe_batch(7, 0.1)
    assert value("gmvaluator_batch_images_sum") == before + 7


def test_the_measured_recall_of_a_collection_is_told() -> None:
    observe_collection(CollectionInfo("unmeasured", 1, 1, True, {}))
    observe_collection(CollectionInfo("w", 1, 1, True, {"measured": {"recall_at_50": 0.99, "recall_at_50_low": 0.9}}))
    assert value("gmvaluator_index_recall", collection="w") == 0.99
    assert REGISTRY.get_sample_value("gmvaluator_index_recall", {"collection": "unmeasured"}) is None


async def test_the_event_loops_lag_is_measured() -> None:
    before = value("gmvaluator_event_loop_lag_seconds_count")
    async with loop_watched():
        while value("gmvaluator_event_loop_lag_seconds_count") < before + 2:  # noqa: ASYNC110 - nobody signals it
            await asyncio.sleep(0.01)


def test_a_scrape_tells_what_is_now() -> None:
    worker = SimpleNamespace(waiting=4, counts=WorkerCounts(dropped=2))
    now = RuntimeCollector(
        CallGate(Admission(1, 1)), cast(Any, worker), cast(Any, SimpleNamespace(counts=DecoderCounts(refused=3)))
    )
    REGISTRY.register(now)
    try:
        port = serve_metrics("127.0.0.1:0")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    finally:
        REGISTRY.unregister(now)
    for line in ("gmvaluator_queue_images 4.0", "gmvaluator_in_flight 0.0", "gmvaluator_undecodable_images_total 3.0"):
        assert line in lines
    with pytest.raises(PreconditionFailed, match="metrics"):
        serve_metrics(f"127.0.0.1:{port}")


def test_an_index_that_has_outgrown_its_verification_shows(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"recall_at_50": 0.995, "points": 1000}
    observe_collection(CollectionInfo("grown", 1300, 1300, True, {"measured": measured}))
    assert value("gmvaluator_index_growth_since_verified_ratio", collection="grown") == pytest.approx(0.3)
    assert "index verify" in capsys.readouterr().out
    observe_collection(CollectionInfo("grown", 1100, 1100, True, {"measured": measured}))
    assert value("gmvaluator_index_growth_since_verified_ratio", collection="grown") == pytest.approx(0.1)
    assert "index verify" not in capsys.readouterr().out


async def test_a_look_at_recall_that_breaks_is_not_the_last() -> None:
    looks: list[int] = []
    enough = asyncio.Event()

    async def observe() -> None:
        looks.append(len(looks))
        if len(looks) == 3:
            enough.set()
        raise (ZeroDivisionError("of the driver"), PreconditionFailed("of the index"))[len(looks) % 2]

    with structlog.testing.capture_logs() as lines:
        async with recall_watched(observe, 0.001), asyncio.timeout(10):
            await enough.wait()
    assert {line["log_level"] for line in lines} == {"error", "warning"}
    assert any("of the index" in line["problem"] for line in lines)
