"""Setup of the serving benchmarks: images, data folders, attributors with their metrics, and load processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from evaluation.bench.serving.load import image_files
from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.processes import observed_attributor, run_command
from gmvaluator.errors import Failure
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.index.opening import open_store
from gmvaluator.index.schema import KEY_DATA_SET, KEY_KEY
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Float32Array, Generator, Point
from gmvaluator.samples import sample_folder

MODEL_VERSION = "bench"
DATA_SET = "bench"
OWNERS = 200
BATCH = 1_000
JPEG_PX = 512
LOG_CHARACTERS = 2_000
"""Characters of an attributor's log in the message about its failure."""

PROGRESS_EVERY = 10_000
"""Points written to the stubs' index between two progress lines."""


def jpegs(folder: Path) -> Path:
    """Write the sample's generated images as JPEG of 512 x 512 pixels to a new folder, and return it."""
    target = folder / "jpeg"
    target.mkdir()
    for path in image_files(sample_folder("generated")):
        with Image.open(path) as image:
            large = image.convert("RGB").resize((JPEG_PX, JPEG_PX), Image.Resampling.BICUBIC)
        large.save(target / f"{path.stem}.jpg", quality=90)
    return target


def sample_data(folder: Path, profile: Sequence[str], works: int | None = None) -> Path:
    """Make a data folder with the sample, or its first `works` works, indexed by the models of `profile`."""
    data, source = folder / f"data-{uuid.uuid4().hex[:8]}", sample_folder("openclipart")
    if works is not None:
        source = _part_of(source, folder / f"first-{works}", works)
    run_command("index", "add", str(source), "--data-set", DATA_SET, "--data", str(data), *profile)
    run_command("generators", "add", MODEL_VERSION, "--data-set", DATA_SET, "--policy", "paper@1", "--data", str(data))
    return data


def _part_of(source: Path, target: Path, works: int) -> Path:
    target.mkdir()
    for path in image_files(source / "images")[:works]:
        (target / path.name).write_bytes(path.read_bytes())
    return target


def built_stub_data(folder: Path, points: int) -> Path:
    """Return a data folder as from `stub_data`; one that an earlier run completed in `folder` is reused."""
    # The marker is written last: without it, a data folder is incomplete and is removed.
    built = folder / f"built-{points}"
    if not built.is_file():
        for old in (*folder.glob("built-*"), folder / "stub"):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        stub_data(folder, points)
        built.touch()
    return folder / "stub"


def stub_data(folder: Path, points: int) -> Path:
    """Make a data folder whose index holds `points` clustered vectors of profile `stub`, built and quantised."""
    data, began = folder / "stub", time.monotonic()
    store = open_store(data / "index")
    try:
        store.create(profile_identity("stub"))
        with open_catalogue(data, write=True) as catalogue:
            for start in range(0, points, BATCH):
                numbers = range(start, min(start + BATCH, points))
                catalogue.record([_work(number) for number in numbers])
                store.upsert(_points(numbers))
                if numbers.stop % PROGRESS_EVERY == 0:
                    _show_progress(f"{numbers.stop:,} points, {numbers.stop / (time.monotonic() - began):.0f} a second")
            catalogue.add_generator(Generator(MODEL_VERSION, "works", (DATA_SET,), "paper@1"))
        store.build()
        _show_progress(f"built in {time.monotonic() - began:.0f} s")
    finally:
        store.close()
    return data


def _show_progress(text: str) -> None:
    print(f"bench serve: index of stubs: {text}", file=sys.stderr)  # noqa: T201 - progress


def _work(number: int) -> NewWork:
    sha256 = _sha256(number)
    owner = OwnerReference(f"owner {number % OWNERS}", f"Owner {number % OWNERS}")
    return NewWork(training_image_id(sha256), sha256, JPEG_PX, JPEG_PX, DATA_SET, f"work {number}", "", owner=owner)


def _points(numbers: Sequence[int]) -> list[Point]:
    dimension = profile_identity("stub").recall_dim
    centres = np.random.default_rng(0).normal(size=(BATCH, dimension))
    random = np.random.default_rng(numbers[0] + 1)
    recall = _unit(centres[random.integers(BATCH, size=len(numbers))] + random.normal(size=(len(numbers), dimension)))
    perceptual = _unit(random.normal(size=(len(numbers), dimension)))
    return [
        Point(
            training_image_id(_sha256(number)),
            recall[row],
            perceptual[row][np.newaxis],
            {KEY_KEY: f"work {number}", KEY_DATA_SET: [DATA_SET]},
        )
        for row, number in enumerate(numbers)
    ]


def _sha256(number: int) -> str:
    return sha256_hex(f"bench {number}".encode())


def _unit(rows: Any) -> Float32Array:
    unit: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@dataclass(frozen=True, slots=True)
class Running:
    """An attributor under measurement."""

    address: str
    metrics_port: int

    def metrics(self) -> dict[str, float]:
        """Return every sample of its Prometheus metrics by name and labels, such as `x_bucket{le="0.1"}`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as response:
            text = response.read().decode()
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples


@contextmanager
def serving(data: Path, *options: str) -> Iterator[Running]:
    """Run `gmvaluator serve` on `data` with its metrics exposed. Raises Failure with the end of its log."""
    with (data.parent / "attributor.log").open("w+", encoding="utf-8") as log:
        try:
            with observed_attributor("--data", str(data), *options, log=log) as (address, metrics):
                yield Running(address, int(metrics.rpartition(":")[2]))
        except Failure as error:
            log.seek(0)
            raise Failure(f"{error}\n{log.read()[-LOG_CHARACTERS:]}") from error


def run_module(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m MODULE ARGUMENTS` to its end, and return the JSON object that it prints. Raises Failure."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode != 0:
        raise Failure(f"{module} ended with exit code {done.returncode}; its message is above")
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def send(running: Running, images: Path, count: int, *options: str, only_ok: bool = True) -> dict[str, Any]:
    """Send `count` images from another process; return its calls and seconds.

    Raises Failure if one failed and `only_ok`.
    """
    result = run_module(
        "evaluation.bench.serving.load", "--address", running.address, "--images", str(images), "--model-version",
        MODEL_VERSION, "--prefix", uuid.uuid4().hex, "--count", str(count), *options,
    )  # fmt: skip
    failed = {call["status"] for call in result["calls"]} - {"OK"}
    if failed and only_ok:
        raise Failure(f"calls failed with {', '.join(sorted(failed))}: this run measures nothing")
    return result


_BUCKET = re.compile(r'gmvaluator_event_loop_lag_seconds_bucket\{le="([^"]+)"\}')


class Lags:
    """Sum of the event-loop lag histograms of all measured attributors, which sample their loop 100 times a second."""

    def __init__(self) -> None:
        self._cumulative: dict[float, float] = {}
        self._max_s = 0.0

    def add(self, running: Running) -> None:
        """Add an attributor's histogram; call it at the end of its phase."""
        metrics = running.metrics()
        for name, value in metrics.items():
            if (match := _BUCKET.fullmatch(name)) is not None:
                limit = float(match[1])
                self._cumulative[limit] = self._cumulative.get(limit, 0.0) + value
        self._max_s = max(self._max_s, metrics["gmvaluator_event_loop_lag_max_seconds"])

    def figures(self) -> dict[str, float]:
        """Return loop_lag_p99_ms, as the upper limit of its bucket, and loop_lag_max_ms; empty if nothing was added."""
        if not self._cumulative:
            return {}
        rank = 0.99 * max(self._cumulative.values())
        limit_s = min(limit for limit, count in self._cumulative.items() if count >= rank)
        return {"loop_lag_p99_ms": min(limit_s, self._max_s) * 1000, "loop_lag_max_ms": self._max_s * 1000}
