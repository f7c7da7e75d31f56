"""The service beside the bare models: throughput flat out, and what a caller waits for beside the forward pass."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.serving.lag import Lags
from evaluation.bench.serving.places import Running, run_module, sample_data, send, serving
from evaluation.bench.serving.under_load import _percentile
from gmvaluator.samples import sample_folder

STAGES = ("lookup_ms", "decode_ms", "queue_ms", "embed_ms", "recall_ms", "rerank_ms", "quality_ms", "post_ms")
WARM_UP = 64
LITE_WORKS = 400
"""Twice what is recalled for an image; each is indexed in ten views, which takes longer than all the rest."""

PAPER_WORKS = 60
ONE_CORE = ("--model-threads", "1")


def lite(folder: Path, lags: Lags, count: int, concurrency: int) -> dict[str, Any]:
    """Ratio, overhead at half load, and re-ranking beside none, with the models of `lite` held to one core.

    service_to_model_ratio: images/s through the service by those of the bare decode + model loop, which runs before and
    after. overhead: a caller's time less the forward pass, at half load. rerank_latency_ratio: a caller's median time
    to RERANKED by that to RECALLED, the answer without re-ranking. share_*: where a caller's time goes at half load.
    """
    data, images = sample_data(folder, ["--profile", "lite"], LITE_WORKS), sample_folder("generated")
    before = _bare(images, ["--profile", "lite"], count)
    with serving(data, "--profile", "lite", *ONE_CORE) as running:
        images_per_s = _flat_out(running, images, count, concurrency)
        half = send(running, images, count, "--per-second", str(images_per_s / 2))["calls"]
        lags.add(running)
    baseline = statistics.mean([before, _bare(images, ["--profile", "lite"], count)])
    return {
        "service_to_model_ratio_lite": images_per_s / baseline,
        "lite_service_images_per_s": images_per_s,
        "lite_bare_images_per_s": baseline,
        **_overhead(half),
        **_shares(half),
    }


def paper(folder: Path, lags: Lags, profile: Sequence[str], count: int, concurrency: int) -> dict[str, Any]:
    """The ratio for the models of `paper`; profile: the options that choose them, quality off."""
    data, images = sample_data(folder, profile, PAPER_WORKS), sample_folder("generated")
    before = _bare(images, profile, count)
    with serving(data, *profile, *ONE_CORE) as running:
        images_per_s = _flat_out(running, images, count, concurrency)
        lags.add(running)
    baseline = statistics.mean([before, _bare(images, profile, count)])
    return {
        "service_to_model_ratio_paper": images_per_s / baseline,
        "paper_service_images_per_s": images_per_s,
        "paper_bare_images_per_s": baseline,
    }


def _flat_out(running: Running, images: Path, count: int, concurrency: int) -> float:
    send(running, images, min(WARM_UP, count), "--concurrency", str(concurrency))
    return count / float(send(running, images, count, "--concurrency", str(concurrency))["seconds"])


def _bare(images: Path, profile: Sequence[str], count: int) -> float:
    found = run_module("evaluation.bench.bare", "--images", str(images), *profile, "--count", str(count))
    return float(found["images_per_s"])


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
    """Share of a caller's mean time spent in each stage; the rest is transport, thread hops and the event loop."""
    total = statistics.mean(call["final_ms"] for call in calls)
    shares = {
        f"share_{stage.removesuffix('_ms')}": statistics.mean(call["timings"].get(stage, 0) for call in calls) / total
        for stage in STAGES
    }
    return {**shares, "share_other": 1 - sum(shares.values())}
