"""The queries of a split with what the index answered: what fits and measurements are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evaluation.known_source.queries import Query, make_queries
from evaluation.known_source.search import Found, search_all
from evaluation.known_source.spec import Plan
from evaluation.make_examples import read_works
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.models.registry import load_models
from gmvaluator.processes import run_command
from gmvaluator.samples import sample_folder

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One query, its true sources as ids with shares, and what was found."""

    query: Query
    sources: dict[TrainingImageId, float]
    found: Found

    @property
    def single(self) -> bool:
        """Whether it was made from one work by a recipe; copies are counted apart."""
        return len(self.sources) == 1 and self.query.kind != "copy"

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Place of each source by perceptual distance, 0 the nearest; a large number if it was not recalled."""
        return _ranks(self.sources, self.found.reranked)

    @cached_property
    def recall_ranks(self) -> tuple[int, ...]:
        """Place of each source by recall."""
        return _ranks(self.sources, self.found.recalled)


def _ranks(sources: dict[TrainingImageId, float], ids: Sequence[TrainingImageId]) -> tuple[int, ...]:
    places = {one: place for place, one in enumerate(ids)}
    return tuple(places.get(one, 1_000_000) for one in sources)


def index_sample(data: Path, profile: str) -> Path:
    """Index the sample as an operator would, into `data`; returns where the index is."""
    run_command("index", "add", str(sample_folder("openclipart")), "--data", str(data), "--profile", profile)
    return data / "index"


def observe(plan: Plan, location: str | Path, profile: str) -> list[Observation]:
    """Make the plan's images and ask the index about each. Raises ProfileMismatch, MissingIndex."""
    folder = sample_folder("openclipart")
    works = read_works(folder)
    queries = make_queries(plan, list(works.values()), folder)
    ids = {key: training_image_id(work.sha256) for key, work in works.items()}
    found = search_all(location, load_models(profile), queries)
    return [
        Observation(query, {ids[key]: weight for key, weight in query.sources}, answer)
        for query, answer in zip(queries, found, strict=True)
    ]
