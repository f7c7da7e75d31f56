"""Metrics: counts of answered and refused images, samples of a scrape, and the tasks that measure."""

import asyncio
import socket
import threading
import urllib.request
from dataclasses import replace

import pytest
import structlog

from attributor.core.attribution import Attribution, Stage, Timings
from attributor.ops import metrics_server
from attributor.ops.background import background_task
from attributor.ops.metrics import (
    REGISTRY,
    RuntimeCollector,
    RuntimeState,
    measure_loop_lag,
    observe_batch,
    observe_collection,
    observe_refusal,
    poll_collections,
    serve_metrics,
)
from attributor.wiring import observe_final
from gmvaluator.errors import ImageTooLarge, PreconditionFailed
from gmvaluator.ports import CollectionInfo
from tests.support.waiting import until

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


def test_the_measured_recall_of_a_collection_is_exposed() -> None:
    observe_collection(CollectionInfo("unmeasured", 1, 1, True, {}))
    observe_collection(CollectionInfo("w", 1, 1, True, {"measured": {"recall_at_50": 0.99, "recall_at_50_low": 0.9}}))
    assert value("gmvaluator_index_recall", collection="w") == 0.99
    assert REGISTRY.get_sample_value("gmvaluator_index_recall", {"collection": "unmeasured"}) is None


async def test_the_event_loops_lag_is_measured() -> None:
    before = value("gmvaluator_event_loop_lag_seconds_count")
    async with background_task(measure_loop_lag()):
        while value("gmvaluator_event_loop_lag_seconds_count") < before + 2:  # noqa: ASYNC110 - nobody signals it
            await asyncio.sleep(0.01)


def test_a_scrape_reads_the_current_state() -> None:
    collector = RuntimeCollector(lambda: RuntimeState(queue_images=4, undecodable_images=3))
    REGISTRY.register(collector)
    try:
        port = serve_metrics("127.0.0.1:0")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", method="HEAD")
        with urllib.request.urlopen(asked) as answer:
            assert (answer.status, answer.read()) == (200, b"")
            assert int(answer.headers["Content-Length"]) > 0
    finally:
        REGISTRY.unregister(collector)
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


async def test_collections_are_polled_again_after_an_error() -> None:
    polls: list[int] = []
    enough = asyncio.Event()

    async def observe() -> None:
        polls.append(len(polls))
        if len(polls) == 3:
            enough.set()
        raise (ZeroDivisionError("of the driver"), PreconditionFailed("of the index"))[len(polls) % 2]

    with structlog.testing.capture_logs() as lines:
        async with background_task(poll_collections(observe, 0.001)), asyncio.timeout(10):
            await enough.wait()
    assert {line["log_level"] for line in lines} == {"error", "warning"}
    assert any("of the index" in line["problem"] for line in lines)


async def test_a_background_task_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    async with background_task(work()):
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_a_background_task_that_fails_is_logged_and_does_not_end_the_block() -> None:
    failed = asyncio.Event()

    async def work() -> None:
        failed.set()
        raise ZeroDivisionError("of the measurement")

    with structlog.testing.capture_logs() as lines:
        async with background_task(work()):
            await failed.wait()
    (line,) = lines
    assert (line["log_level"], line["exc_info"].args) == ("error", ("of the measurement",))


def test_half_requests_keep_no_scrape_out() -> None:
    port = serve_metrics("127.0.0.1:0")
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(60)]
    try:
        for connection in silent[::2]:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        for _ in range(20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
                assert b"gmvaluator" in response.read()
        until(lambda: threading.active_count() <= before + metrics_server.MAX_SCRAPES)
    finally:
        for connection in silent:
            connection.close()
