"""Sections of `gmvaluator bench serve`.

`lite` and `paper` compare the service with its models in a plain loop. The other sections use stub models of a fixed
cost: sustained load, indexing at the same time, batching, overload, and callers who cancel or time out.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from evaluation.bench.serving.load import Load, image_files
from evaluation.bench.serving.setup import (
    DATA_SET,
    MODEL_VERSION,
    Lags,
    Running,
    run_module,
    sample_data,
    send,
    serving,
)
from gmvaluator.client.connection import Connection
from gmvaluator.commands.processes import run_command
from gmvaluator.samples import sample_folder
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub

STAGES = ("lookup_ms", "decode_ms", "queue_ms", "embed_ms", "recall_ms", "rerank_ms", "quality_ms", "post_ms")
WARM_UP = 64
"""Images sent before a measurement."""

LITE_WORKS = 400
"""Works to index: twice the number recalled for an image. Indexing their ten views takes most of the section's time."""

PAPER_WORKS = 60
ONE_CORE = ("--model-threads", "1")

SUSTAINED = "stub:batch_ms=2,image_ms=5"
BATCHED = "stub:batch_ms=20"
OVERLOADED = "stub:image_ms=25"
CANCELLED = "stub:batch_ms=100"
"""Profiles of the sections: stub models with a fixed time per batch and per image."""

CONCURRENCY = 32
WAVE = 100
"""Calls that are abandoned at once in section `leaving`."""

LEAVE_AFTER_S = 0.25
"""Time after which callers leave, in seconds: two of a wave's batches are done by then, and most are not."""

RECOVERY_S = 5.0
"""Pause after an overload, in seconds, and length of the measurement that follows."""

BATCHES = "gmvaluator_batch_images_count"


def lite(folder: Path, lags: Lags, count: int, concurrency: int) -> dict[str, Any]:
    """Measure throughput, overhead and the cost of re-ranking with the models of `lite` on one core.

    service_to_model_ratio: images/s of the service divided by those of the baseline, a loop of decoding and model
    that runs before and after it. overhead: latency without the forward pass, at half load. rerank_latency_ratio:
    median time to RERANKED divided by that to RECALLED, the answer without re-ranking. share_*: share of the latency
    in each stage at half load.
    """
    data, images = sample_data(folder, ["--profile", "lite"], LITE_WORKS), sample_folder("generated")
    before = _baseline_rate(images, ["--profile", "lite"], count)
    with serving(data, "--profile", "lite", *ONE_CORE) as running:
        images_per_s = _full_load_rate(running, images, count, concurrency)
        half = send(running, images, count, "--per-second", str(images_per_s / 2))["calls"]
        lags.add(running)
    baseline = statistics.mean([before, _baseline_rate(images, ["--profile", "lite"], count)])
    return {
        "service_to_model_ratio_lite": images_per_s / baseline,
        "lite_service_images_per_s": images_per_s,
        "lite_bare_images_per_s": baseline,
        **_overhead(half),
        **_shares(half),
    }


def paper(folder: Path, lags: Lags, profile: Sequence[str], count: int, concurrency: int) -> dict[str, Any]:
    """Measure the throughput ratio with the models of `paper`. profile: options that choose them, without quality."""
    data, images = sample_data(folder, profile, PAPER_WORKS), sample_folder("generated")
    before = _baseline_rate(images, profile, count)
    with serving(data, *profile, *ONE_CORE) as running:
        images_per_s = _full_load_rate(running, images, count, concurrency)
        lags.add(running)
    baseline = statistics.mean([before, _baseline_rate(images, profile, count)])
    return {
        "service_to_model_ratio_paper": images_per_s / baseline,
        "paper_service_images_per_s": images_per_s,
        "paper_bare_images_per_s": baseline,
    }


def _full_load_rate(running: Running, images: Path, count: int, concurrency: int) -> float:
    """Return the images/s of the service under a closed loop."""
    send(running, images, min(WARM_UP, count), "--concurrency", str(concurrency))
    return count / float(send(running, images, count, "--concurrency", str(concurrency))["seconds"])


def _baseline_rate(images: Path, profile: Sequence[str], count: int) -> float:
    """Return the images/s of the baseline."""
    figures = run_module("evaluation.bench.serving.baseline", "--images", str(images), *profile, "--count", str(count))
    return float(figures["images_per_s"])


def _overhead(calls: Sequence[dict[str, Any]]) -> dict[str, float]:
    overhead = [call["final_ms"] - call["timings"].get("embed_ms", 0) for call in calls]
    medians = {name: _percentile(calls, f"{name}_ms", 50) for name in ("recalled", "reranked", "final")}
    return {
        "overhead_p50_ms": float(np.percentile(overhead, 50)),
        "overhead_p99_ms": float(np.percentile(overhead, 99)),
        "rerank_latency_ratio": medians["reranked"] / medians["recalled"],
        **{f"{name}_p50_ms": value for name, value in medians.items()},
    }


def _shares(calls: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the share of the mean latency spent in each stage.

    The rest is transport, thread switches and the event loop.
    """
    total = statistics.mean(call["final_ms"] for call in calls)
    shares = {
        f"share_{stage.removesuffix('_ms')}": statistics.mean(call["timings"].get(stage, 0) for call in calls) / total
        for stage in STAGES
    }
    return {**shares, "share_other": 1 - sum(shares.values())}


def sustained(data: Path, images: Path, lags: Lags, per_second: float, seconds: float) -> dict[str, Any]:
    """Measure throughput and latency under open-loop load of `per_second`. Errors are calls that got no FINAL."""
    count = round(per_second * seconds)
    with serving(data, "--profile", SUSTAINED) as running:
        send(running, images, 64, "--concurrency", "8")
        sent = send(running, images, count, "--per-second", str(per_second), only_ok=False)
        lags.add(running)
    answered = [call for call in sent["calls"] if call["status"] == "OK"]
    return {
        "sustained_images_per_s": len(answered) / sent["seconds"],
        "sustained_errors": count - len(answered),
        "sustained_p50_ms": _percentile(answered, "final_ms", 50),
        "sustained_p99_ms": _percentile(answered, "final_ms", 99),
        "sustained_offered_per_s": per_second,
        "sustained_s": sent["seconds"],
    }


def while_indexing(data: Path, images: Path, lags: Lags, per_second: float, seconds: float) -> dict[str, Any]:
    """Measure p99 latency and errors while `index add` writes to the served collection and rebuilds it."""
    with serving(data, "--profile", SUSTAINED) as running:
        command = ("index", "add", str(sample_folder("openclipart")), "--data-set", DATA_SET, "--data", str(data))
        with ThreadPoolExecutor(1) as executor:
            indexing = executor.submit(run_command, *command, "--profile", "stub")
            sent = send(running, images, round(per_second * seconds), "--per-second", str(per_second), only_ok=False)
        lags.add(running)
    answered = [call for call in sent["calls"] if call["status"] == "OK"]
    return {
        "indexing_errors": len(sent["calls"]) - len(answered),
        "indexing_p99_ms": _percentile(answered, "final_ms", 99),
        "indexing_points": indexing.result()["points"],
    }


def batching(data: Path, images: Path, lags: Lags, count: int) -> dict[str, Any]:
    """Measure images/s of eight callers divided by those of one, where a batch of any size takes 20 ms."""
    with serving(data, "--profile", BATCHED) as running:
        send(running, images, 32, "--concurrency", "8")
        alone = count / 4 / send(running, images, count // 4, "--concurrency", "1")["seconds"]
        eight = count / send(running, images, count, "--concurrency", "8")["seconds"]
        lags.add(running)
    return {"batching_gain": eight / alone, "batching_alone_per_s": alone, "batching_eight_per_s": eight}


def overload(data: Path, images: Path, lags: Lags, count: int, seconds: float) -> dict[str, Any]:
    """Measure goodput, rejections and recovery under three times the service's capacity.

    overload_goodput_ratio: images answered within the phase, per second, divided by the capacity. overload_memory_mb:
    growth of the attributor's resident memory. overload_recovered_p99_ratio: p99 latency at half load, five seconds
    after the overload, divided by that before it.
    """
    with serving(data, "--profile", OVERLOADED) as running:
        send(running, images, 64, "--concurrency", str(CONCURRENCY))
        capacity = count / send(running, images, count, "--concurrency", str(CONCURRENCY))["seconds"]
        calm_p99_ms = _p99_at_half_load(running, images, capacity)
        with _peak_rss(data) as rss:
            sent = send(
                running, images, round(3 * capacity * seconds), "--per-second", str(3 * capacity), only_ok=False
            )
        time.sleep(RECOVERY_S)
        recovered_p99_ms = _p99_at_half_load(running, images, capacity)
        lags.add(running)
    calls = sent["calls"]
    in_time = [
        call for call in calls if call["status"] == "OK" and call["sent_s"] * 1000 + call["ended_ms"] <= seconds * 1000
    ]
    refused = [call for call in calls if call["status"] == "RESOURCE_EXHAUSTED"]
    return {
        "overload_goodput_ratio": len(in_time) / seconds / capacity,
        "refusal_p99_ms": _percentile(refused, "ended_ms", 99),
        "refusal_p50_ms": _percentile(refused, "ended_ms", 50),
        "overload_refused": len(refused),
        "overload_capacity_per_s": capacity,
        "overload_other_errors": sum(call["status"] not in ("OK", "RESOURCE_EXHAUSTED") for call in calls),
        "overload_memory_mb": (rss["peak"] - rss["before"]) / 2**20,
        "overload_recovered_p99_ratio": recovered_p99_ms / calm_p99_ms,
    }


def leaving(data: Path, images: Path, lags: Lags, calls: int) -> dict[str, Any]:
    """Measure the work done after callers cancelled or timed out, and check that their postings are whole or absent."""
    with serving(data, "--profile", CANCELLED, "--max-in-flight", str(2 * WAVE), "--max-batch", "16") as running:
        send(running, images, 64, "--concurrency", "8")
        figures = asyncio.run(_leave(running, [path.read_bytes() for path in image_files(images)], calls))
        lags.add(running)
    return figures


async def _leave(running: Running, images: Sequence[bytes], calls: int) -> dict[str, Any]:
    prefix = uuid.uuid4().hex
    batches_after: dict[str, int] = {}
    for kind in ("cancelled", "expired"):
        deadline_s = LEAVE_AFTER_S if kind == "expired" else 60.0
        load = Load(running.address, list(images), MODEL_VERSION, f"{prefix}-{kind}", deadline_s)
        worst = 0
        for start in range(0, calls, WAVE):
            tasks = [asyncio.create_task(load.send(number)) for number in range(start, start + WAVE)]
            await asyncio.sleep(LEAVE_AFTER_S)
            if kind == "cancelled":
                for task in tasks:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            worst = max(worst, await _batches_from_now(running))
        batches_after[kind] = worst
        await load.close()
    names = [f"{prefix}-{kind}:{number}" for kind in batches_after for number in range(calls)]
    whole, absent, torn = await _count_postings(running, names)
    return {
        "work_after_cancel_batches": max(batches_after.values()),
        "left_cancelled": calls,
        "left_expired": calls,
        "left_whole": whole,
        "left_absent": absent,
        "left_torn": torn,
    }


async def _batches_from_now(running: Running) -> int:
    """Return the number of batches that end from now on, until none has ended for 0.3 s. One may be running already."""
    first = last = (await asyncio.to_thread(running.metrics))[BATCHES]
    while True:
        await asyncio.sleep(0.3)
        current = (await asyncio.to_thread(running.metrics))[BATCHES]
        if current == last:
            return round(last - first)
        last = current


async def _count_postings(running: Running, names: Sequence[str]) -> tuple[int, int, int]:
    """Return how many generations are complete in the ledger, absent, or neither."""
    whole = absent = torn = 0
    async with Connection(running.address).aio_channel() as channel:
        stub: Any = AttributionServiceStub(channel)
        for name in names:
            try:
                answer = await stub.GetAttribution(attribution_v1.GetAttributionRequest(generation_id=name), timeout=30)
            except grpc.aio.AioRpcError as error:
                absent += error.code() is grpc.StatusCode.NOT_FOUND
                torn += error.code() is not grpc.StatusCode.NOT_FOUND
                continue
            attribution = answer.attribution
            paid = sum(contributor.credit_micros for contributor in attribution.contributors)
            complete = paid + attribution.unattributed_micros == attribution.issued_micros
            whole += complete
            torn += not complete
    return whole, absent, torn


def _p99_at_half_load(running: Running, images: Path, capacity: float) -> float:
    count = max(round(capacity / 2 * RECOVERY_S), 10)
    return _percentile(send(running, images, count, "--per-second", str(capacity / 2))["calls"], "final_ms", 99)


@contextmanager
def _peak_rss(data: Path) -> Iterator[dict[str, int]]:
    """Provide the resident bytes of the attributor on `data`: before, and the peak of four samples per second."""
    process = process_of(data)
    rss = {"before": resident_bytes(process), "peak": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            rss["peak"] = max(rss["peak"], resident_bytes(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield rss
    finally:
        done.set()
        watcher.join()


def process_of(data: Path) -> int:
    """Return the process id of the `gmvaluator serve` on a data folder. Raises ProcessLookupError."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(data).encode() in words:
            return int(path.parent.name)
    raise ProcessLookupError(f"no attributor runs on {data}")


def resident_bytes(process: int) -> int:
    """Return the resident memory of a process, in bytes; 0 for one that is ending."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _percentile(calls: Sequence[dict[str, Any]], name: str, percent: float) -> float:
    return float(np.percentile([call[name] for call in calls], percent)) if calls else 0.0
