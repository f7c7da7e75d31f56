"""What models cost: hours of GPUs or cores to make the index, and how many serve the load.

Bytes of the index, and into how many segments Qdrant cuts it.

What queries cost the index: processor time and random reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmvaluator.index.schema import DEFAULT_DEPTH, MAX_SEGMENT_KB, SearchSettings, code_bytes
from gmvaluator.planning.constants import Constants
from gmvaluator.planning.plan import GPUS, NO_GPU, Wanted

QUERY_VIEWS_LITE = 2
MANIQA_CROPS = 20
UTILISATION = {"lite": 0.05, "paper": 0.35}
"""Part of a GPU's peak that is reached: ASSUMED, no GPU was at hand. EfficientNet waits for memory."""

UTILISATION_BF16 = {"lite": 0.02, "paper": 0.25}


@dataclass(frozen=True, slots=True)
class Computing:
    """unit: "GPU" or "core". index_hours: of one unit. index_units: that make the index within the time. serving_units:
    that carry the load; decoding_cores: beside GPUs, that decode what one unit embeds while the index is made."""

    unit: str
    works_per_s: float
    queries_per_s: float
    index_hours: float
    index_units: float
    serving_units: float
    decoding_cores: float


def computing(wanted: Wanted, measured: Constants) -> Computing:
    """index_hours = N / works_per_s / 3600; serving_units = qps / queries_per_s.

    On a core: as measured, one thread, fp32, batch 32 (docs/results/bench-models.json). On a GPU: peak x utilisation /
    operations of the passes (docs/results/sizing.json), or --gpu-images-per-s. Decoding takes its share of the time
    under load (docs/results/bench-serve.json); that is of small images, large photographs take several times as long.
    """
    works, queries = _per_core(wanted, measured) if wanted.gpu == NO_GPU else _per_gpu(wanted, measured)
    hours = wanted.images / works / 3600
    decode_s = measured.final_ms * measured.decode_share / 1000
    return Computing(
        unit="core" if wanted.gpu == NO_GPU else "GPU",
        works_per_s=works,
        queries_per_s=queries,
        index_hours=hours,
        index_units=hours / wanted.hours,
        serving_units=wanted.qps / queries,
        decoding_cores=works * decode_s,
    )


def _per_core(wanted: Wanted, measured: Constants) -> tuple[float, float]:
    """Works and queries a second of one core. A query of `lite` is two views of an image, a work has `views`."""
    if wanted.profile == "lite":
        passes = QUERY_VIEWS_LITE * measured.lite_queries_per_core_s
        return passes / wanted.vectors.views, measured.lite_queries_per_core_s
    embedding_s = 1 / measured.clip_passes_per_core_s + 1 / measured.dreamsim_passes_per_core_s
    # MANIQA by the rate that the core reaches on CLIP: the same kind of network.
    quality_s = _maniqa(measured) / (measured.clip_passes_per_core_s * measured.vit_b_32_operations)
    return 1 / embedding_s, 1 / (embedding_s + quality_s)


def _per_gpu(wanted: Wanted, measured: Constants) -> tuple[float, float]:
    if wanted.profile == "lite":
        work = wanted.vectors.views * measured.lite_operations
        query = QUERY_VIEWS_LITE * measured.lite_operations
    else:
        work = 2 * measured.vit_b_32_operations
        query = work + _maniqa(measured)
    gpu = GPUS[wanted.gpu]
    half = wanted.precision == "bf16"
    reached = 1e12 * (gpu.bf16 * UTILISATION_BF16[wanted.profile] if half else gpu.fp32 * UTILISATION[wanted.profile])
    if wanted.gpu_images_per_s:
        return wanted.gpu_images_per_s, wanted.gpu_images_per_s * work / query
    return reached / work, reached / query


def _maniqa(measured: Constants) -> float:
    """Operations of the ViT-B/8 on twenty crops; what MANIQA has behind it is not counted."""
    return MANIQA_CROPS * measured.vit_b_8_operations


FLOAT_BYTES = 4
KIB = 1024
BUILD_HEADROOM = 1.3
"""Of the disk, assumed: a segment is written anew beside the old one, and deleted points stay until it is."""


@dataclass(frozen=True, slots=True)
class IndexSize:
    """One copy of the index, without replicas.

    ram_bytes_per_point: what answers of every query need in memory. disk_bytes_per_point: everything, with headroom.
    """

    ram_bytes_per_point: float
    disk_bytes_per_point: float
    ram_bytes: float
    disk_bytes: float
    segments: int
    points_per_segment: float


def index_size(wanted: Wanted, measured: Constants) -> IndexSize:
    """RAM = N (codes + graph + ids + cache_share recall); disk = 1.3 N (the first 3 + recall + perceptual + payload).

    recall = 4 D, perceptual = 4 P V, codes = 4 D / ratio: arithmetic, for D, P and V of the profile (float32;
    gmvaluator/index/schema.py and quantisation.py). graph (HNSW links of m = 16, compressed), ids and payload: measured
    for one point, docs/results/sizing.json. The originals of recall are read for rescoring: cache_share of them is
    wanted in page cache. Perceptual vectors are read from disk.
    """
    vectors = wanted.vectors
    recall = FLOAT_BYTES * vectors.recall_dim
    perceptual = FLOAT_BYTES * vectors.perceptual_dim * vectors.views
    codes = code_bytes(wanted.quantisation, vectors.recall_dim)
    searched = codes + measured.graph_bytes_per_point + measured.ids_bytes_per_point
    ram = searched + wanted.cache_share * recall
    disk = BUILD_HEADROOM * (recall + perceptual + searched + measured.payload_bytes_per_point)
    segments = segments_of(wanted.images, max(recall, perceptual))
    return IndexSize(ram, disk, wanted.images * ram, wanted.images * disk, segments, wanted.images / segments)


def segments_of(points: int, largest_vector_bytes: int) -> int:
    """Segments = N x bytes of the largest named vector / max_segment_size, rounded up.

    Qdrant merges segments until one of their vectors' storages would be over max_segment_size, which the product sets
    to 64 GiB (MAX_SEGMENT_KB). Each segment has a graph and codes of its own, and every query asks all of them.
    """
    return max(1, math.ceil(points * largest_vector_bytes / (MAX_SEGMENT_KB * KIB)))


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
