"""Profile `lite` on ONNX Runtime next to torch: images a second of processor time, load time, and the difference.

    python -m evaluation.bench.lite_runtimes --output docs/results/lite-runtimes.json

Both run in this process with one thread, in turns, so that other load affects both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmvaluator.models.lite_weights import BACKBONE_FILE, HEADS_FILE, Heads, pinned_tensors
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Float32Array
from gmvaluator.report import write_report

BATCHES = (1, 2, 8)
ROUNDS = 12
SEED = 20


def measure() -> dict[str, Any]:
    """Load both backbones, embed batches in turns, and compare what the heads make of their features."""
    weights = profile_identity("lite").weights
    state = pinned_tensors(BACKBONE_FILE, weights["backbone"])
    started = time.process_time()
    from gmvaluator.models.lite_onnx import OnnxBackbone

    onnx = OnnxBackbone(state, threads=1)
    onnx_load_s = time.process_time() - started
    started = time.process_time()
    import torch

    from gmvaluator.models.device import Runtime
    from gmvaluator.models.lite_network import TorchBackbone

    torch.set_num_threads(1)
    folded = TorchBackbone(state, Runtime(torch.device("cpu")))
    torch_load_s = time.process_time() - started
    images = np.random.default_rng(SEED).uniform(-1, 1, (max(BATCHES), 3, 224, 224)).astype(np.float32)
    heads = Heads(pinned_tensors(HEADS_FILE, weights["heads"]))
    outputs = [heads(backbone(images)) for backbone in (onnx, folded)]
    rows = [_row(batch, images[:batch], onnx, folded) for batch in BATCHES]
    return {
        "onnx_load_s": round(onnx_load_s, 3),
        "torch_load_s": round(torch_load_s, 3),
        "batches": rows,
        "embedding_difference": float(abs(outputs[0][0] - outputs[1][0]).max()),
        "quality_difference": float(abs(outputs[0][1] - outputs[1][1]).max()),
    }


def _row(batch: int, images: Float32Array, onnx: Any, folded: Any) -> dict[str, float]:
    times: dict[str, list[float]] = {"onnx": [], "torch": []}
    for _ in range(ROUNDS):
        for name, backbone in (("onnx", onnx), ("torch", folded)):
            started = time.process_time()
            backbone(images)
            times[name].append(time.process_time() - started)
    per_second = {name: batch / statistics.median(seconds) for name, seconds in times.items()}
    return {
        "batch": batch,
        **{f"{name}_images_per_core_s": round(figure, 1) for name, figure in per_second.items()},
        "ratio": round(per_second["onnx"] / per_second["torch"], 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.lite_runtimes", description=__doc__)
    parser.add_argument("--output", type=Path, help="file of the report; default: standard output")
    options = parser.parse_args(arguments)
    write_report(measure(), "python -m evaluation.bench.lite_runtimes", options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
