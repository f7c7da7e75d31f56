"""The figures that a plan multiplies: measured ones, with their files in docs/results, and counted ones.

They ship with the package as constants.json. To update them after new measurements, run in a checkout:

    python -m gmvaluator.planning.constants docs/results
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("constants.json")

MEASURED: dict[str, tuple[str, str]] = {
    "graph_bytes_per_point": ("sizing", "graph_bytes_per_point"),
    "payload_bytes_per_point": ("sizing", "payload_bytes_per_point"),
    "ids_bytes_per_point": ("sizing", "ids_bytes_per_point"),
    "ledger_bytes_per_posting": ("sizing", "ledger_bytes_per_posting"),
    "catalogue_bytes_per_work": ("sizing", "catalogue_bytes_per_work"),
    "thumbnail_bytes": ("sizing", "thumbnail_photograph_bytes"),
    "lite_operations": ("sizing", "lite_operations"),
    "vit_b_32_operations": ("sizing", "vit_b_32_operations"),
    "lite_queries_per_core_s": ("bench-models", "lite_fp32_batch_32_images_per_s"),
    "clip_passes_per_core_s": ("bench-models", "clip_fp32_batch_32_images_per_s"),
    "dreamsim_passes_per_core_s": ("bench-models", "dreamsim_fp32_batch_32_images_per_s"),
    "windows_ratio": ("parts-cost", "embedding_ratio"),
    "parts_ms": ("parts-cost", "added_beside_models_ms"),
    "work_detection_ms": ("parts-cost", "work_detect_ms"),
    "final_ms": ("bench-serve", "final_p50_ms"),
    "decode_share": ("bench-serve", "share_decode"),
    "rerank_share": ("bench-serve", "share_rerank"),
    "search_ms": ("index-verify", "recall_p50_ms"),
    "search_points": ("index-verify", "points"),
    "postings_per_s": ("bench-ledger", "postgresql_images_per_s"),
}
"""Source of each measured constant: a file of docs/results without its ending, and the figure's name in it."""

# docs/results/sizing.json has only the ViT-B/8, and without its attention, a fused operation on CPUs that the FLOP
# counter there does not count.
COUNTED: dict[str, tuple[float, str]] = {
    "local_features_bytes_per_point": (
        15_248,
        "the most that a work's local features take in its payload: base64 of 36 bytes and 300 keypoints of 38 "
        "(gmvaluator/keypoints.py)",
    ),
    "maniqa_crop_operations": (
        277e9,
        "counted from the architecture (pyiqa's MANIQA, one crop of 224 x 224): 130e9 in the first ten blocks of the "
        "ViT-B/8, 147e9 in the channel attention, Swin stages, convolutions and heads behind them",
    ),
}
"""Constants that are counted, not measured: the value, and how it was counted."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Figures that a plan multiplies; docs/results names the machine of the measured ones.

    *_bytes*: bytes. *_operations: floating-point operations of one forward pass, a multiplication and its addition
    counted as two. *_per_core_s: passes or queries a second on one core of a CPU, fp32. windows_ratio: processor time
    of embedding an image with its windows, as a multiple of that without. parts_ms: processor time of looking for works
    in parts of an image, beside embedding; work_detection_ms: of detecting a work's local features. final_ms: median
    time of an image under load, as the caller sees it; decode_share and rerank_share are parts of it, 0 to 1.
    search_ms: median of one recall query over search_points points. postings_per_s: durable, on PostgreSQL.
    """

    graph_bytes_per_point: float
    payload_bytes_per_point: float
    local_features_bytes_per_point: float
    ids_bytes_per_point: float
    ledger_bytes_per_posting: float
    catalogue_bytes_per_work: float
    thumbnail_bytes: float
    lite_operations: float
    vit_b_32_operations: float
    maniqa_crop_operations: float
    lite_queries_per_core_s: float
    clip_passes_per_core_s: float
    dreamsim_passes_per_core_s: float
    windows_ratio: float
    parts_ms: float
    work_detection_ms: float
    final_ms: float
    decode_share: float
    rerank_share: float
    search_ms: float
    search_points: float
    postings_per_s: float


def shipped() -> Constants:
    """Return the constants of this release."""
    return Constants(**json.loads(FILE.read_text(encoding="utf-8")))


def read_constants(folder: Path) -> dict[str, float]:
    """Return the constants by name, the measured ones from the files in `folder`, which is docs/results.

    Raises OSError or KeyError if a file or figure is missing.
    """
    reports: dict[str, Any] = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["figures"]
        for name in {file for file, _ in MEASURED.values()}
    }
    values = {name: float(reports[file][figure]) for name, (file, figure) in MEASURED.items()}
    values |= {name: value for name, (value, _) in COUNTED.items()}
    return {field.name: values[field.name] for field in fields(Constants)}


if __name__ == "__main__":
    FILE.write_text(json.dumps(read_constants(Path(sys.argv[1])), indent=2) + "\n", encoding="utf-8")
