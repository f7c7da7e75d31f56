"""Formulae of a plan: bytes and segments of the index, cost of a query, and compute for the models."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmvaluator.index.schema import DEFAULT_DEPTH, MAX_SEGMENT_KB, SearchSettings, code_bytes
from gmvaluator.local_features.sightings import WINDOW_DEPTH
from gmvaluator.planning.constants import Constants
from gmvaluator.planning.request import GPUS, NO_GPU, PlanRequest
from gmvaluator.windows import WINDOWS

FLOAT_BYTES = 4
KIB = 1024
PAGE_BYTES = 4096

# While Qdrant rebuilds a segment the old one stays next to it, and deleted points stay until it is rebuilt.
BUILD_HEADROOM = 1.3
"""Factor on the disk's bytes for rebuilding segments; assumed."""

QUERY_VIEWS_LITE = 2
"""Views of a generated image that profile `lite` embeds; of a work it embeds all its views."""

WINDOW_PASSES_LITE = 4
"""Passes that windows of a generated image cost with profile `lite`: one at twice the side."""

# The shipped policy for `lite` counts parts; for `paper` none does, so that nothing is looked for.
WINDOWS_BY_PROFILE = {"lite": len(WINDOWS), "paper": 0}
"""Windows of a generated image that are recalled beside the whole, by profile."""

MANIQA_CROPS = 20
"""Crops of a generated image that MANIQA scores by default."""

# EfficientNet waits for memory, so that it reaches a much smaller part of the peak than a transformer.
UTILISATION = {"lite": 0.05, "paper": 0.35}
"""Part of a GPU's fp32 peak that the models reach, by profile: ASSUMED, no GPU was available to measure."""

UTILISATION_BF16 = {"lite": 0.02, "paper": 0.25}
"""Part of a GPU's bf16 peak that the models reach, by profile: ASSUMED."""


@dataclass(frozen=True, slots=True)
class IndexSize:
    """Size of one replica of the index.

    ram_bytes_per_point: memory that every query needs. disk_bytes_per_point: everything on disk, with headroom.
    """

    ram_bytes_per_point: float
    disk_bytes_per_point: float
    ram_bytes: float
    disk_bytes: float
    segments: int
    points_per_segment: float


def index_size(request: PlanRequest, constants: Constants) -> IndexSize:
    """Compute the bytes and segments of the index.

    RAM = N (codes + graph + ids + cache_share recall);
    disk = 1.3 N (the first 3 + recall + perceptual + payload + local features).

    recall = 4 D, perceptual = 4 P V, codes = 4 D / ratio: arithmetic, for D, P and V of the profile (float32;
    gmvaluator/index/schema.py and quantisation.py). graph (HNSW links of m = 16, compressed), ids and payload: measured
    for one point, docs/results/sizing.json; local features: their largest size. Rescoring reads the originals of the
    recall vectors: cache_share of them should be in the page cache. Perceptual vectors are read from disk.
    """
    vectors = request.vectors
    recall = FLOAT_BYTES * vectors.recall_dim
    perceptual = FLOAT_BYTES * vectors.perceptual_dim * vectors.views
    codes = code_bytes(request.quantisation, vectors.recall_dim)
    searched = codes + constants.graph_bytes_per_point + constants.ids_bytes_per_point
    ram = searched + request.cache_share * recall
    payload = constants.payload_bytes_per_point + constants.local_features_bytes_per_point
    disk = BUILD_HEADROOM * (recall + perceptual + searched + payload)
    segments = segments_of(request.images, max(recall, perceptual))
    return IndexSize(ram, disk, request.images * ram, request.images * disk, segments, request.images / segments)


def segments_of(points: int, largest_vector_bytes: int) -> int:
    """Return the number of segments of an index.

    Segments = N x bytes of the largest named vector / max_segment_size, rounded up.

    Qdrant merges segments until the storage of one of their vectors would exceed max_segment_size, which the product
    sets to 64 GiB (MAX_SEGMENT_KB). Each segment has its own graph and codes, and every query searches all of them.
    """
    return max(1, math.ceil(points * largest_vector_bytes / (MAX_SEGMENT_KB * KIB)))


@dataclass(frozen=True, slots=True)
class SearchLoad:
    """Load of the queries on the index.

    core_s_per_query: core-seconds of one image's recall and re-ranking, over all segments. reads_per_query: pages of
    4 KiB from disk. cores and reads_per_s: for the requested queries a second.
    """

    core_s_per_query: float
    reads_per_query: float
    cores: float
    reads_per_s: float


def search_load(request: PlanRequest, index: IndexSize, constants: Constants) -> SearchLoad:
    """Compute the load that the queries put on the index.

    cores = qps (W S t ln(N/S) / ln(N0) + r); reads = qps (S d oversampling (1 - cache_share) + d pages).

    W recall queries for each image: the whole and its windows. d candidates: the depth of all of them together.
    S segments of N/S points. t: median of one recall query over N0 points (docs/results/index-verify.json), a search of
    one thread; a graph's search grows with the logarithm of its points (Malkov and Yashunin 2018, section 4.2.1).
    r: re-ranking, its share of the time under load (docs/results/bench-serve.json). Each segment reads d x
    oversampling originals to rescore; then d works' perceptual vectors are read, each from as many pages as it
    fills. Both are upper bounds: waiting is counted as work.
    """
    growth = math.log(max(index.points_per_segment, math.e)) / math.log(constants.search_points)
    windows = WINDOWS_BY_PROFILE[request.profile]
    candidates = DEFAULT_DEPTH + windows * WINDOW_DEPTH
    recall_s = (1 + windows) * index.segments * constants.search_ms / 1000 * max(growth, 0.1)
    rerank_s = constants.final_ms * constants.rerank_share / 1000 * candidates / DEFAULT_DEPTH
    rescored = index.segments * candidates * SearchSettings().oversampling * (1 - request.cache_share)
    work_bytes = FLOAT_BYTES * request.vectors.perceptual_dim * request.vectors.views
    reads = rescored + candidates * math.ceil(work_bytes / PAGE_BYTES)
    core_s = recall_s + rerank_s
    return SearchLoad(core_s, reads, request.qps * core_s, request.qps * reads)


@dataclass(frozen=True, slots=True)
class ModelCompute:
    """Compute that the models need, counted in units: "GPU" or "core".

    works_per_s and queries_per_s: of one unit. index_hours: unit-hours to embed all works. index_units: units that
    embed them within the requested hours. serving_units: units that carry the load. decoding_cores: CPU cores that
    decode the works that one unit embeds while the index is built, and detect their local features. parts_cores: CPU
    cores that look for works in parts of images; 0 if `serving_units` are cores and do that too.
    """

    unit: str
    works_per_s: float
    queries_per_s: float
    index_hours: float
    index_units: float
    serving_units: float
    decoding_cores: float
    parts_cores: float


def model_compute(request: PlanRequest, constants: Constants) -> ModelCompute:
    """Compute the units that the models need for indexing and for serving.

    index_hours = N / works_per_s / 3600; serving_units = qps / queries_per_s.

    On a core: as measured, one thread, fp32, batch 32 (docs/results/bench-models.json). On a GPU: peak x utilisation /
    operations of the passes (docs/results/sizing.json), or --gpu-images-per-s. Decoding takes its share of the time
    under load (docs/results/bench-serve.json), measured on small images; large photographs take several times as long.
    Local features and parts of images are looked at on cores (docs/results/parts-cost.json).
    """
    works, queries = _per_core(request, constants) if request.gpu == NO_GPU else _per_gpu(request, constants)
    hours = request.images / works / 3600
    decode_s = (constants.final_ms * constants.decode_share + constants.work_detection_ms) / 1000
    parts_s = constants.parts_ms / 1000 if WINDOWS_BY_PROFILE[request.profile] else 0.0
    return ModelCompute(
        unit="core" if request.gpu == NO_GPU else "GPU",
        works_per_s=works,
        queries_per_s=queries,
        index_hours=hours,
        index_units=hours / request.hours,
        serving_units=request.qps / queries,
        decoding_cores=works * decode_s,
        parts_cores=0.0 if request.gpu == NO_GPU else request.qps * parts_s,
    )


def _per_core(request: PlanRequest, constants: Constants) -> tuple[float, float]:
    """Return the works and the queries a second of one core."""
    detection_s = constants.work_detection_ms / 1000
    if request.profile == "lite":
        whole_s = 1 / constants.lite_queries_per_core_s
        work_s = request.vectors.views * whole_s / QUERY_VIEWS_LITE + detection_s
        return 1 / work_s, 1 / (constants.windows_ratio * whole_s + constants.parts_ms / 1000)
    embedding_s = 1 / constants.clip_passes_per_core_s + 1 / constants.dreamsim_passes_per_core_s
    # MANIQA was not measured on one core: it is taken to reach the rate of CLIP, which is the same kind of network.
    quality_s = _maniqa_operations(constants) / (constants.clip_passes_per_core_s * constants.vit_b_32_operations)
    return 1 / (embedding_s + detection_s), 1 / (embedding_s + quality_s)


def _per_gpu(request: PlanRequest, constants: Constants) -> tuple[float, float]:
    """Return the works and the queries a second of one GPU."""
    if request.profile == "lite":
        work = request.vectors.views * constants.lite_operations
        query = (QUERY_VIEWS_LITE + WINDOW_PASSES_LITE) * constants.lite_operations
    else:
        work = 2 * constants.vit_b_32_operations
        query = work + _maniqa_operations(constants)
    # The measured rate already contains the utilisation; only the ratio of the operations is needed then.
    if request.gpu_images_per_s:
        return request.gpu_images_per_s, request.gpu_images_per_s * work / query
    gpu = GPUS[request.gpu]
    if request.precision == "bf16":
        operations_per_s = 1e12 * gpu.bf16 * UTILISATION_BF16[request.profile]
    else:
        operations_per_s = 1e12 * gpu.fp32 * UTILISATION[request.profile]
    return operations_per_s / work, operations_per_s / query


def _maniqa_operations(constants: Constants) -> float:
    """Return the operations of MANIQA on all crops of one image."""
    return MANIQA_CROPS * constants.maniqa_crop_operations
