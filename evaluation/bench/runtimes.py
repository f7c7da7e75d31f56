"""`python -m evaluation.bench.runtimes`: other ways to run CLIP's image tower and `lite`, beside the plain loop.

A decision was taken from its figures (docs/adr), and nothing of the product needs what it tries: install openvino,
onnx, onnxscript and onnxruntime first. What cannot be imported, exported or run is reported with its reason. One
thread, batches of 8; the time is the processor's, the least of several turns.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gmvaluator.models.process_setup import prepare_process
from gmvaluator.report import machine

BATCH = 8
TURNS = 5


def main() -> None:
    """Print one JSON object: rows of {model, runtime, ratio_to_plain_loop, deviation} or {..., failed}."""
    prepare_process()
    import torch

    torch.set_num_threads(1)
    rows = [row for name in sys.argv[1:] or ("clip", "lite") for row in _measure(name)]
    print(json.dumps({"rows": rows, "machine": machine()}, indent=2))  # noqa: T201 - this is the program's output


def _measure(name: str) -> list[dict[str, Any]]:
    import torch

    with torch.inference_mode():
        network, inputs = _network(name)
        expected = network(inputs)
        rows: list[dict[str, Any]] = []
        for runtime, make in RUNTIMES.items():
            try:
                run = make(network, inputs)
                found = torch.as_tensor(run(inputs)).float()
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is its result
                rows.append({"model": name, "runtime": runtime, "failed": f"{type(error).__name__}: {error}"[:200]})
                continue
            seconds, plain = _least(partial(run, inputs)), _least(partial(network, inputs))
            deviation = float((1 - torch.cosine_similarity(expected, found)).abs().max())
            row = {"model": name, "runtime": runtime, "ratio_to_plain_loop": plain / seconds, "deviation": deviation}
            rows.append(row)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)  # noqa: T201 - progress
        return rows


def _least(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(TURNS):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def _network(name: str) -> tuple[Any, Any]:
    """A module from normalised pixels to vectors, and a batch for it; of `lite` the backbone's pooled last layer."""
    import numpy as np
    import torch

    from evaluation.bench import model_cases

    pixels = torch.from_numpy(np.stack(model_cases.images(BATCH))).float().div(127.5) - 1
    if name == "clip":
        return model_cases._seeded_clip().visual, pixels
    return model_cases.timm_backbone(), pixels


def _compiled(network: Any, inputs: Any, dtype: str = "float32") -> Callable[[Any], Any]:
    import torch
    import torch._inductor.config as settings

    settings.freezing = True
    compiled: Callable[[Any], Any] = torch.compile(network)

    def run(batch: Any) -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return compiled(batch)

    run(inputs)
    return run


def _channels_last(network: Any, _: Any) -> Callable[[Any], Any]:
    import copy

    import torch

    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    return lambda batch: other(batch.contiguous(memory_format=torch.channels_last))


def _autocast(network: Any, _: Any) -> Callable[[Any], Any]:
    import torch

    def run(batch: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return network(batch)

    return run


def _openvino(precision: str) -> Callable[[Any, Any], Callable[[Any], Any]]:
    def make(network: Any, inputs: Any) -> Callable[[Any], Any]:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            converted = openvino.convert_model(_onnx(network, inputs, Path(folder)))
            options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
            compiled = openvino.Core().compile_model(converted, "CPU", options)
        return lambda batch: compiled([batch.numpy()])[0]

    return make


def _onnxruntime(int8: bool) -> Callable[[Any, Any], Callable[[Any], Any]]:
    def make(network: Any, inputs: Any) -> Callable[[Any], Any]:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            path = _onnx(network, inputs, Path(folder))
            if int8:
                quantize_dynamic(path, f"{folder}/int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
                path = f"{folder}/int8.onnx"
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda batch: session.run(None, {name: batch.numpy()})[0]

    return make


def _onnx(network: Any, inputs: Any, folder: Path) -> str:
    import torch

    path = str(folder / "model.onnx")
    torch.onnx.export(network, (inputs,), path, dynamo=True, external_data=False, verbose=False)
    return path


RUNTIMES: dict[str, Callable[[Any, Any], Callable[[Any], Any]]] = {
    "channels-last": _channels_last,
    "autocast bf16": _autocast,
    "torch.compile": _compiled,
    "torch.compile, autocast bf16": lambda network, inputs: _compiled(network, inputs, "bfloat16"),
    "onnxruntime": _onnxruntime(int8=False),
    "onnxruntime, dynamic int8": _onnxruntime(int8=True),
    "openvino f32": _openvino("f32"),
    "openvino bf16": _openvino("bf16"),
}

if __name__ == "__main__":
    main()
