"""`gmvaluator bench models`: speed of each model as the product runs it, compared with its package's plain loop.

Each variant of a model runs in a process of its own, `python -m evaluation.bench.models NAME plain|PRECISION
THREADS`. The process first prints the time of its first call. It then answers each line {"batch": B} on stdin with
{"seconds": ...}, and {"vectors": B} with the model's outputs for B images. At the end of stdin it prints its peak
memory.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from gmvaluator.errors import Failure
from gmvaluator.models.process_setup import prepare_process

BATCHES = (1, 8, 32)
COMPARED_IMAGES = 4
"""Images on which outputs are compared."""

NAMES = {
    "clip": "open_clip ViT-B-32",
    "dreamsim": "dreamsim open_clip_vitb32",
    "maniqa": "pyiqa maniqa, one crop",
    "lite": "lite",
}
PRECISIONS: Mapping[str, Sequence[str]] = {
    "clip": ("fp32", "bf16", "int8"),
    "dreamsim": ("fp32", "bf16", "int8"),
    "maniqa": ("fp32", "bf16", "int8"),
    "lite": ("fp32", "bf16"),
}


def bench_models(threads: int, seconds: float, names: Sequence[str] = tuple(NAMES)) -> dict[str, Any]:
    """Measure each model; return figures by model, precision and batch size, and the same as the list `models`.

    Plain loop and product alternate, each in a process of its own with the same threads and malloc thresholds, for
    about `seconds` per batch size, and at least once. ratio_to_plain_loop: median time of the plain loop divided by
    that of the product. deviation: largest difference between the outputs of both over a few images, 1 - cosine for
    vectors and the absolute difference for qualities.
    """
    rows = [row for name in names for row in _measure(name, threads, seconds)]
    return {"models": rows, **_flat(rows)}


def _flat(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows as figures with one name each, as in every report."""
    figures = ("images_per_s", "ratio_to_plain_loop", "deviation")
    return {
        f"{row['key']}_{row['precision']}_batch_{row['batch']}_{figure}": row[figure]
        for row in rows
        for figure in figures
    }


def _measure(name: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        plain = stack.enter_context(_ModelProcess(name, "plain", threads))
        product = {kind: stack.enter_context(_ModelProcess(name, kind, threads)) for kind in PRECISIONS[name]}
        expected = plain.vectors(COMPARED_IMAGES)
        deviation = {kind: _deviation(expected, process.vectors(COMPARED_IMAGES)) for kind, process in product.items()}
        times = {batch: _median_times({"plain": plain, **product}, batch, seconds) for batch in BATCHES}
        peaks = {kind: process.end() for kind, process in product.items()}
        plain_peak_rss_mb = plain.end()
    return [
        {
            "name": NAMES[name],
            "key": name,
            "precision": kind,
            "batch": batch,
            "device": "cpu",
            "images_per_s": batch / times[batch][kind],
            "ratio_to_plain_loop": times[batch]["plain"] / times[batch][kind],
            "first_call_ms": product[kind].first_call_ms,
            "peak_rss_mb": peaks[kind],
            "plain_images_per_s": batch / times[batch]["plain"],
            "plain_peak_rss_mb": plain_peak_rss_mb,
            "deviation": deviation[kind],
        }
        for kind in PRECISIONS[name]
        for batch in BATCHES
    ]


def _median_times(processes: Mapping[str, _ModelProcess], batch: int, seconds: float) -> dict[str, float]:
    """Return the median seconds of a batch by process."""
    # The processes alternate, so that a busy moment affects all of them.
    times: dict[str, list[float]] = {name: [] for name in processes}
    started = time.monotonic()
    while not times["plain"] or time.monotonic() - started < seconds:
        for name, process in processes.items():
            times[name].append(process.run_batch(batch))
    return {name: statistics.median(values) for name, values in times.items()}


def _deviation(expected: Any, actual: Any) -> float:
    """Return the largest deviation of qualities (B,) or vectors (B, D)."""
    plain, product = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if plain.ndim == 1:
        return float(np.abs(plain - product).max())
    cosine = (plain * product).sum(axis=1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(product, axis=1)
    return float(np.maximum(1 - cosine, 0).max())


class _ModelProcess:
    """A process that runs one variant of a model; it is killed at the end of the context."""

    def __init__(self, name: str, kind: str, threads: int) -> None:
        command = [sys.executable, "-m", "evaluation.bench.models", name, kind, str(threads)]
        self._name = f"{name} {kind}"
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
        self.first_call_ms: float = self._answer()["first_call_ms"]

    def __enter__(self) -> _ModelProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def run_batch(self, batch: int) -> float:
        """Run one forward pass of `batch` images; return its seconds."""
        seconds: float = self._request({"batch": batch})["seconds"]
        return seconds

    def vectors(self, count: int) -> Any:
        """Return the model's outputs for `count` images."""
        return self._request({"vectors": count})["vectors"]

    def end(self) -> float:
        """Stop the process; return its peak memory in MiB."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak: float = self._answer()["peak_rss_mb"]
        self._process.stdin = None
        return peak

    def _request(self, value: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"the process that measures {self._name} ended; its message is above")
        value: dict[str, Any] = json.loads(line)
        return value


def main() -> None:
    """Run one variant of a model; see the module for the protocol."""
    name, kind, threads = sys.argv[1:]
    prepare_process()
    import torch

    from evaluation.bench.model_cases import images, plain, product

    torch.set_num_threads(int(threads))
    channel = _own_stdout()
    with torch.inference_mode():
        model = plain(name) if kind == "plain" else product(name, kind)
        pictures = images(32)
        started = time.perf_counter()
        model(pictures[:1])
        _reply(channel, {"first_call_ms": (time.perf_counter() - started) * 1000})
        for line in sys.stdin:
            request = json.loads(line)
            if "vectors" in request:
                _reply(channel, {"vectors": model(pictures[: request["vectors"]]).tolist()})
                continue
            started = time.perf_counter()
            model(pictures[: request["batch"]])
            _reply(channel, {"seconds": time.perf_counter() - started})
    _reply(channel, {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def _own_stdout() -> Any:
    """Return stdout for the replies, and redirect prints to stderr: packages print when they load."""
    channel, sys.stdout = sys.stdout, sys.stderr
    return channel


def _reply(channel: Any, value: dict[str, Any]) -> None:
    channel.write(json.dumps(value) + "\n")
    channel.flush()


if __name__ == "__main__":
    main()
