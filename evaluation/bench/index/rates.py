"""Indexing speed: `index add` compared with a plain loop of decoding and embedding, and with given embeddings.

`python -m evaluation.bench.index.rates FOLDER THREADS` runs the plain loop, which is the baseline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.bench.index.collection import show_progress
from evaluation.bench.index.vectors import Vectors, points_of
from evaluation.bench.serving.load import image_files
from gmvaluator.auth.secret_files import own_environment
from gmvaluator.commands.processes import run_command
from gmvaluator.errors import Failure
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.samples import sample_folder

ROUNDS = 2
BATCH_VIEWS = 64
"""Views per batch of the baseline, as many as the indexer takes."""

ONE_VIEW, TEN_VIEWS = "stub", "lite"
"""Profiles whose works have one perceptual vector (of 512 dimensions, as the recall vector) and ten."""


def indexing(folder: Path, images: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Compare `index add` of works of the sample with the baseline, in turns, both on one core and one thread.

    images: per round. Both times run from the first image to the last one that is done; for indexing that means an
    acknowledged point, an entry in the catalogue and a thumbnail. Models are loaded before. The build follows and
    counts as indexing_build_s.
    """
    sources = _parts(folder, images, rounds)
    baseline_s = indexing_s = build_s = 0.0
    with _one_core():
        for number, source in enumerate(sources):
            baseline_s += _baseline_s(source)
            options = ("--data", str(folder / f"data-{number}"), "--no-group", "--threads", "1")
            seconds = run_command("index", "add", str(source), "--profile", "lite", *options)["seconds"]
            indexing_s, build_s = indexing_s + seconds["indexing"], build_s + seconds["building"]
            show_progress(f"indexing: {baseline_s:.1f} s by the baseline, {indexing_s:.1f} s by index add")
    count = images * rounds
    return {
        "indexing_to_embed_ratio": baseline_s / indexing_s,
        "indexing_images_per_s": count / indexing_s,
        "bare_images_per_s": count / baseline_s,
        "indexing_images": count,
        "indexing_build_s": build_s,
    }


def embeddings(folder: Path, vectors: Vectors) -> dict[str, Any]:
    """Measure `index add` of embeddings in clip-retrieval's layout, in points/s up to the last acknowledged point."""
    return {
        "points_per_s": _points_per_s(folder / "one", vectors, ONE_VIEW),
        "points_per_s_ten_views": _points_per_s(folder / "ten", vectors, TEN_VIEWS),
        "points_per_s_points": vectors.count,
    }


def _points_per_s(folder: Path, vectors: Vectors, profile: str) -> float:
    _write(folder / "embeddings", vectors, profile)
    os.sync()  # otherwise these files would be written to disk during the measurement
    options = ("--data", str(folder / "data"), "--profile", profile, "--no-group")
    answer = run_command("index", "add", str(folder / "embeddings"), *options)
    if answer["points"] != vectors.count:
        raise Failure(f"{answer['points']} points came of {vectors.count} embeddings: this run measures nothing")
    return float(vectors.count / answer["seconds"]["indexing"])


def _write(folder: Path, vectors: Vectors, profile: str) -> None:
    for name in ("img_emb", "perceptual_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    identity = profile_identity(profile)
    for shard, (numbers, rows) in enumerate(vectors.blocks()):
        points = points_of(numbers, rows, identity)
        np.save(folder / "img_emb" / f"img_emb_{shard}.npy", rows)
        perceptual = np.stack([point.perceptual for point in points])
        np.save(folder / "perceptual_emb" / f"perceptual_emb_{shard}.npy", perceptual)
        metadata = [
            {"sha256": sha256_hex(f"work {number}".encode()), "key": f"work {number}", "width": 224, "height": 224}
            for number in numbers
        ]
        pq.write_table(pa.Table.from_pylist(metadata), folder / "metadata" / f"metadata_{shard}.parquet")


def _parts(folder: Path, images: int, rounds: int) -> list[Path]:
    """Copy different works for each round into a folder per round."""
    paths = image_files(sample_folder("openclipart") / "images")[: images * rounds]
    parts = [folder / f"part-{number}" for number in range(rounds)]
    for number, part in enumerate(parts):
        part.mkdir(parents=True)
        for path in paths[number::rounds]:
            (part / path.name).write_bytes(path.read_bytes())
    return parts


def _baseline_s(source: Path) -> float:
    command = [sys.executable, "-m", "evaluation.bench.index.rates", str(source), "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=own_environment())  # noqa: S603 - our own program
    if done.returncode != 0:
        raise Failure(f"the baseline ended with exit code {done.returncode}; its message is above")
    return float(json.loads(done.stdout)["seconds"])


@contextmanager
def _one_core() -> Iterator[None]:
    """Restrict child processes to one core, where the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def main(folder: Path, threads: int) -> None:
    """Embed every image of a folder as a work, in all views; print a JSON object with the seconds."""
    prepare_process()
    models = load_models("lite", threads=threads)
    batch = max(1, BATCH_VIEWS // models.identity.perceptual_views)
    paths = sorted(folder.iterdir())
    models.embed_works([models.prepare_work(decode_image(paths[0].read_bytes()))])
    began = time.monotonic()
    for start in range(0, len(paths), batch):
        files = [path.read_bytes() for path in paths[start : start + batch]]
        models.embed_works([models.prepare_work(decode_image(data)) for data in files])
    print(json.dumps({"seconds": time.monotonic() - began}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
