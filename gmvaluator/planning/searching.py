"""What queries cost the index: processor time and random reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmvaluator.index.schema import DEFAULT_DEPTH, SearchSettings
from gmvaluator.planning.constants import Constants
from gmvaluator.planning.index_size import FLOAT_BYTES, IndexSize
from gmvaluator.planning.wanted import Wanted

PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Searching:
    """core_s_per_query: of one image's two queries, over all segments. reads_per_query: pages of 4 KiB from disk."""

    core_s_per_query: float
    reads_per_query: float
    cores: float
    reads_per_s: float


def searching(wanted: Wanted, index: IndexSize, measured: Constants) -> Searching:
    """cores = qps (S t ln(N/S) / ln(N0) + r); reads = qps (S depth oversampling (1 - cache_share) + depth pages).

    S segments of N/S points. t: median of one recall query over N0 points (docs/results/index-verify.json), a search of
    one thread; a graph's search grows with the logarithm of its points (Malkov and Yashunin 2018, section 4.2.1).
    r: re-ranking, its share of the time under load (docs/results/bench-serve.json). In each segment depth x
    oversampling originals are read to rescore; then `depth` works' perceptual vectors, each on as many pages as it
    fills. Upper bounds: waiting is counted as work.
    """
    growth = math.log(max(index.points_per_segment, math.e)) / math.log(measured.search_points)
    recall_s = index.segments * measured.search_ms / 1000 * max(growth, 0.1)
    rerank_s = measured.final_ms * measured.rerank_share / 1000
    rescored = index.segments * DEFAULT_DEPTH * SearchSettings().oversampling * (1 - wanted.cache_share)
    work_bytes = FLOAT_BYTES * wanted.vectors.perceptual_dim * wanted.vectors.views
    reads = rescored + DEFAULT_DEPTH * math.ceil(work_bytes / PAGE_BYTES)
    core_s = recall_s + rerank_s
    return Searching(core_s, reads, wanted.qps * core_s, wanted.qps * reads)
