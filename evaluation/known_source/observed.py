"""The queries of a split with what the index answered: what fits and measurements are made from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evaluation.known_source.queries import Query, make_queries
from evaluation.known_source.search import Found, search_all
from evaluation.known_source.spec import COPY, RECONSTRUCTION, Plan
from evaluation.make_examples import Work, read_works
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.models.profiles import load_models
from gmvaluator.processes import run_command
from gmvaluator.samples import sample_folder

SHORT_EACH = 5
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """One query, its true sources as ids with shares, and what was found."""

    query: Query
    sources: dict[TrainingImageId, float]
    found: Found

    @property
    def single(self) -> bool:
        """Whether it was made from one work by a recipe; copies and reconstructions are counted apart."""
        return len(self.sources) == 1 and self.query.kind not in (COPY, RECONSTRUCTION)

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


def works_of(short: bool) -> dict[str, Work]:
    """The sample's works by key; every `SHORT_EACH`th of them for a short run."""
    works = read_works(sample_folder("openclipart"))
    return dict(list(works.items())[:: SHORT_EACH if short else 1])


def index_sample(data: Path, profile: str, short: bool = False) -> Path:
    """Index the sample, or a short run's part of it, as an operator would, into `data`; returns where the index is."""
    source = _part(data / "part") if short else sample_folder("openclipart")
    run_command("index", "add", str(source), "--data", str(data), "--profile", profile)
    return data / "index"


def _part(folder: Path) -> Path:
    """A folder with a short run's works."""
    for work in works_of(short=True).values():
        copy = folder / work.file_name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample_folder("openclipart") / work.file_name, copy)
    return folder


def observe(plan: Plan, location: str | Path, profile: str, short: bool = False) -> list[Observation]:
    """Make the plan's images of the sample's works, or of a short run's, and ask the index about each.

    Raises ProfileMismatch, MissingIndex.
    """
    works = works_of(short)
    queries = make_queries(plan, list(works.values()), sample_folder("openclipart"))
    ids = {key: training_image_id(work.sha256) for key, work in works.items()}
    found = search_all(location, load_models(profile), queries)
    return [
        Observation(query, {ids[key]: weight for key, weight in query.sources}, answer)
        for query, answer in zip(queries, found, strict=True)
    ]
