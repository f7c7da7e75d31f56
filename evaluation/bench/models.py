"""`gmvaluator bench models`: each model beside its package's own plain loop, turn by turn.

One model in a process of its own, which computes a batch whenever it is told to.

`python -m evaluation.bench.models NAME plain|PRECISION THREADS`. A line {"batch": B} on stdin is answered by
{"seconds": ...} on stdout; {"vectors": B} by what the model makes of B images. The first answer, unasked, tells the
time of the first call; the end of stdin is answered by the peak of this process's memory.
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
    """Figures by model, precision and batch, and the same as the list `models`.

    Plain loop and product take turns, each in a process of its own with the same threads and malloc thresholds, for
    about `seconds` a batch size, and once at least. ratio_to_plain_loop: medians of plain by product time. deviation:
    of vectors 1 - cosine, of a quality the difference, between plain and product, the largest over a few images.
    """
    rows = [row for name in names for row in _measure(name, threads, seconds)]
    return {"models": rows, **_flat(rows)}


def _flat(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One figure a name, as every report has them."""
    figures = ("images_per_s", "ratio_to_plain_loop", "deviation")
    return {
        f"{row['key']}_{row['precision']}_batch_{row['batch']}_{figure}": row[figure]
        for row in rows
        for figure in figures
    }


def _measure(name: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        plain = stack.enter_context(_Turns(name, "plain", threads))
        ready = {kind: stack.enter_context(_Turns(name, kind, threads)) for kind in PRECISIONS[name]}
        expected = plain.vectors(COMPARED_IMAGES)
        deviation = {kind: _deviation(expected, turns.vectors(COMPARED_IMAGES)) for kind, turns in ready.items()}
        times = {batch: _race({"plain": plain, **ready}, batch, seconds) for batch in BATCHES}
        peaks = {kind: turns.end() for kind, turns in ready.items()}
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
            "first_call_ms": ready[kind].first_call_ms,
            "peak_rss_mb": peaks[kind],
            "plain_images_per_s": batch / times[batch]["plain"],
            "plain_peak_rss_mb": plain_peak_rss_mb,
            "deviation": deviation[kind],
        }
        for kind in PRECISIONS[name]
        for batch in BATCHES
    ]


def _race(runners: Mapping[str, _Turns], batch: int, seconds: float) -> dict[str, float]:
    """Median seconds of a batch by runner; the turns alternate, so that a busy moment hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runners}
    started = time.monotonic()
    while not taken["plain"] or time.monotonic() - started < seconds:
        for name, turns in runners.items():
            taken[name].append(turns.turn(batch))
    return {name: statistics.median(values) for name, values in taken.items()}


def _deviation(expected: Any, found: Any) -> float:
    one, other = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    if one.ndim == 1:
        return float(np.abs(one - other).max())
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(np.maximum(1 - cosine, 0).max())


class _Turns:
    """One process of `model_turns`; ends with the context."""

    def __init__(self, name: str, kind: str, threads: int) -> None:
        words = [sys.executable, "-m", "evaluation.bench.models", name, kind, str(threads)]
        self._what = f"{name} {kind}"
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
        self.first_call_ms: float = self._answer()["first_call_ms"]

    def __enter__(self) -> _Turns:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, batch: int) -> float:
        """Seconds of one forward pass of `batch` images."""
        seconds: float = self._ask({"batch": batch})["seconds"]
        return seconds

    def vectors(self, count: int) -> Any:
        """What it makes of `count` images."""
        return self._ask({"vectors": count})["vectors"]

    def end(self) -> float:
        """Stop it; its peak of memory in MiB."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak: float = self._answer()["peak_rss_mb"]
        self._process.stdin = None
        return peak

    def _ask(self, value: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"the process that measures {self._what} ended; its message is above")
        value: dict[str, Any] = json.loads(line)
        return value


def main() -> None:
    """See the module."""
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
        _say(channel, {"first_call_ms": (time.perf_counter() - started) * 1000})
        for line in sys.stdin:
            ask = json.loads(line)
            if "vectors" in ask:
                _say(channel, {"vectors": model(pictures[: ask["vectors"]]).tolist()})
                continue
            started = time.perf_counter()
            model(pictures[: ask["batch"]])
            _say(channel, {"seconds": time.perf_counter() - started})
    _say(channel, {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def _own_stdout() -> Any:
    """stdout for answers alone: packages print to it when they load."""
    channel, sys.stdout = sys.stdout, sys.stderr
    return channel


def _say(channel: Any, value: dict[str, Any]) -> None:
    channel.write(json.dumps(value) + "\n")
    channel.flush()


if __name__ == "__main__":
    main()
