"""What models cost: hours of GPUs or cores to make the index, and how many serve the load."""

from __future__ import annotations

from dataclasses import dataclass

from gmvaluator.planning.constants import Constants
from gmvaluator.planning.wanted import GPUS, NO_GPU, Wanted

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
