"""Benchmark of looking at parts of an image: processor time of each step, next to embedding the whole image.

    python -m evaluation.bench.parts --data DATA --output docs/results/parts-cost.json

DATA: data folder whose index holds the sample. All steps run in this process with one thread, image by image, so that
other load affects all of them; read the ratios. Compositions of the benchmark are the images.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from PIL.Image import Image

from evaluation.known_source.observations import require_sample, works_of
from evaluation.known_source.queries import PARTS_FIT, Plan, make_queries
from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.images import decode_image
from gmvaluator.index.opening import open_search
from gmvaluator.index.schema import DEFAULT_COLLECTION
from gmvaluator.ledger.allocation import ScoredCandidate, group_candidates, parts_of
from gmvaluator.local_features.detection import Detector
from gmvaluator.local_features.sightings import WINDOW_DEPTH, examine, to_examine, window_sightings
from gmvaluator.models.lite_views import prepare, prepare_large
from gmvaluator.models.lite_weights import shipped_detector
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import CandidateSearch, Models, Prepared
from gmvaluator.report import write_report
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import load_policy
from gmvaluator.valuation.weights import MILLION, distance_millionths
from gmvaluator.windows import WINDOW_MASKS

Out = TypeVar("Out")
IMAGES, WORKS = 40, 40
DEPTH = 200
POLICY = "calibrated@3"


class _Times:
    """Milliseconds of processor time of this process by step, one number for each image."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = defaultdict(list)

    def run(self, step: str, work: Callable[[], Out]) -> Out:
        started = time.process_time()
        result = work()
        self.steps[step].append((time.process_time() - started) * 1000)
        return result

    def medians(self) -> dict[str, float]:
        return {f"{step}_ms": round(statistics.median(values), 2) for step, values in self.steps.items()}


def _plan() -> Plan:
    return replace(PARTS_FIT, per_cell=1, copies=0, noise=0, per_form=max(1, IMAGES // 7))


async def measure(data: Path) -> dict[str, Any]:
    """Take every step of the service for each image, and of the indexer for works. Raises what opening raises."""
    require_sample(data / "index")
    prepare_process()
    models, detector = load_models("lite", threads=1), shipped_detector()
    folder, works = sample_folder("openclipart"), list(works_of(False).values())
    queries = [query for query in make_queries(_plan(), works, folder) if len(query.sources) > 1][:IMAGES]
    times = _Times()
    search = open_search(data / "index", DEFAULT_COLLECTION, api_key=qdrant_api_key())
    try:
        for query in queries:
            await _value(query.image, models, detector, search, times)
    finally:
        await search.close()
    for work in works[:WORKS]:
        _index(decode_image((folder / work.file_name).read_bytes()), models, detector, times)
    medians = times.medians()
    added = sum(medians[f"{step}_ms"] for step in ("prepare_windows", "detect", "verify", "value"))
    return {
        "images": len(queries),
        "works": WORKS,
        **medians,
        "added_beside_models_ms": round(added, 2),
        "embedding_ratio": round(medians["embed_with_windows_ms"] / medians["embed_whole_ms"], 2),
        "added_as_whole_embeddings": round(added / medians["embed_whole_ms"], 2),
    }


async def _value(image: Image, models: Models, detector: Detector, search: CandidateSearch, times: _Times) -> None:
    policy = load_policy(POLICY)
    whole = Prepared.shared(times.run("prepare_whole", lambda: prepare(image)))
    with_windows = replace(whole, windows=times.run("prepare_windows", lambda: prepare_large(image)))
    local = times.run("detect", lambda: detector.detect_image(image))
    times.run("embed_whole", lambda: models.embed([whole]))
    embeddings = times.run("embed_with_windows", lambda: models.embed([with_windows]))
    assert embeddings.windows is not None
    vectors = embeddings.recall[0], DEPTH, embeddings.windows[0], WINDOW_DEPTH
    recalled, windows = await search.recall_with_windows(*vectors)
    ids = list({row.training_image_id: None for rows in (recalled, *windows) for row in rows})
    nearest = await search.rerank(embeddings.perceptual[0], ids, len(ids))
    sightings = window_sightings(windows, WINDOW_MASKS)
    features = await search.local_features(to_examine([row.training_image_id for row in nearest], sightings))
    seen = times.run("verify", lambda: examine(local, features, sightings))
    scored = [
        ScoredCandidate(work, distance_millionths(distance), 0, None, seen.sighting(work)) for work, distance in nearest
    ]
    groups = group_candidates(scored, policy)[: policy.k]
    names, distances = [str(group.name) for group in groups], [group.distance_millionths for group in groups]
    parts = parts_of(groups, seen.content)
    times.run("value", lambda: policy.value(names, distances, MILLION, parts))


def _index(image: Image, models: Models, detector: Detector, times: _Times) -> None:
    times.run("work_detect", lambda: detector.detect_work(image))
    inputs = times.run("work_prepare_and_detect", lambda: models.prepare_work(image))
    times.run("work_embed", lambda: models.embed_works([inputs]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.parts", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder whose index holds the sample")
    parser.add_argument("--output", type=Path, help="file of the report; default: standard output")
    options = parser.parse_args(arguments)
    figures = asyncio.run(measure(options.data))
    write_report(figures, "python -m evaluation.bench.parts --data DATA", options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
