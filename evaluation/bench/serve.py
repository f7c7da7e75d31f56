"""`gmvaluator bench serve`: what the service adds to decode and model."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmvaluator.errors import Failure
from gmvaluator.processes import attributor, run_command
from gmvaluator.samples import sample_folder

MODEL_THREADS = "1"
STAGES = ("decode_ms", "queue_ms", "embed_ms", "recall_ms", "rerank_ms", "quality_ms", "post_ms")


def bench_serve(profile: str, count: int, concurrency: int) -> dict[str, Any]:
    """Figures of one run: bare loop, service flat out, service at half that load; the model has one core in all.

    service_to_model_ratio: images/s through the service by those of the bare decode + model loop. overhead:
    a caller's time less the forward pass, at half load. share_*: where a caller's time goes at half load.
    """
    with tempfile.TemporaryDirectory(prefix="gmvaluator-bench-") as folder:
        run_command("index", "add", str(sample_folder("openclipart")), "--data", folder, "--profile", profile)
        run_command("generators", "add", "bench", "--data-set", "openclipart", "--data", folder)
        bare = _bare(profile, count)
        with attributor("--data", folder, "--profile", profile, "--model-threads", MODEL_THREADS) as address:
            _load(address, 64, "--concurrency", str(concurrency))
            flat_out = _load(address, count, "--concurrency", str(concurrency))
            images_per_s = count / flat_out["seconds"]
            half = _load(address, count, "--per-second", str(images_per_s / 2))
        again = _bare(profile, count)
    baseline = statistics.mean([bare["images_per_s"], again["images_per_s"]])
    return {
        "service_to_model_ratio": images_per_s / baseline,
        "service_images_per_s": images_per_s,
        "bare_images_per_s": baseline,
        "images": count,
        "concurrency": concurrency,
        **_overhead(half["calls"]),
        **_shares(half["calls"]),
    }


def _overhead(calls: Sequence[dict[str, Any]]) -> dict[str, float]:
    overhead = [call["final_ms"] - call["timings"].get("embed_ms", 0) for call in calls]
    return {
        "overhead_p50_ms": float(np.percentile(overhead, 50)),
        "overhead_p99_ms": float(np.percentile(overhead, 99)),
        "recalled_p50_ms": float(np.percentile([call["recalled_ms"] for call in calls], 50)),
        "reranked_p50_ms": float(np.percentile([call["reranked_ms"] for call in calls], 50)),
        "final_p50_ms": float(np.percentile([call["final_ms"] for call in calls], 50)),
    }


def _shares(calls: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of a caller's mean time spent in each stage; the rest is transport, thread hops and the event loop."""
    total = statistics.mean(call["final_ms"] for call in calls)
    shares = {
        f"share_{stage.removesuffix('_ms')}": statistics.mean(call["timings"].get(stage, 0) for call in calls) / total
        for stage in STAGES
    }
    return {**shares, "share_other": 1 - sum(shares.values())}


def _bare(profile: str, count: int) -> dict[str, Any]:
    return _run("evaluation.bench.bare", "--profile", profile, "--count", str(count), "--threads", MODEL_THREADS)


def _load(address: str, count: int, *words: str) -> dict[str, Any]:
    prefix = uuid.uuid4().hex
    result = _run(
        "evaluation.bench.load", "--address", address, "--model-version", "bench", "--prefix", prefix,
        "--count", str(count), *words,
    )  # fmt: skip
    failed = {call["status"] for call in result["calls"]} - {"OK"}
    if failed:
        raise Failure(f"calls failed with {', '.join(sorted(failed))}: this run measures nothing")
    return result


def _run(module: str, *words: str) -> dict[str, Any]:
    images: Path = sample_folder("generated")
    command = [sys.executable, "-m", module, "--images", str(images), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode != 0:
        raise Failure(f"{module} ended with exit code {done.returncode}; its message is above")
    value: dict[str, Any] = json.loads(done.stdout)
    return value
