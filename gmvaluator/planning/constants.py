"""The measured figures that a plan multiplies, each with the file of docs/results it was read from.

They travel with the package as constants.json. After new measurements, in a checkout:

    python -m gmvaluator.planning.constants docs/results
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("constants.json")

SOURCES: dict[str, tuple[str, str]] = {
    "graph_bytes_per_point": ("sizing", "graph_bytes_per_point"),
    "payload_bytes_per_point": ("sizing", "payload_bytes_per_point"),
    "ids_bytes_per_point": ("sizing", "ids_bytes_per_point"),
    "ledger_bytes_per_posting": ("sizing", "ledger_bytes_per_posting"),
    "catalogue_bytes_per_work": ("sizing", "catalogue_bytes_per_work"),
    "thumbnail_bytes": ("sizing", "thumbnail_photograph_bytes"),
    "lite_operations": ("sizing", "lite_operations"),
    "vit_b_32_operations": ("sizing", "vit_b_32_operations"),
    "vit_b_8_operations": ("sizing", "vit_b_8_operations"),
    "lite_queries_per_core_s": ("bench-models", "lite_fp32_batch_32_images_per_s"),
    "clip_passes_per_core_s": ("bench-models", "clip_fp32_batch_32_images_per_s"),
    "dreamsim_passes_per_core_s": ("bench-models", "dreamsim_fp32_batch_32_images_per_s"),
    "final_ms": ("bench-serve", "final_p50_ms"),
    "decode_share": ("bench-serve", "share_decode"),
    "rerank_share": ("bench-serve", "share_rerank"),
    "search_ms": ("index-verify", "recall_p50_ms"),
    "search_points": ("index-verify", "points"),
    "postings_per_s": ("bench-ledger", "postgresql_images_per_s"),
}
"""Name here: file of docs/results without its ending, and the figure's name there."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Measured figures; docs/results says on which machine. Bytes unless the name says otherwise.

    *_operations: floating-point operations of one forward pass. *_per_core_s: a second on one core of a CPU, fp32.
    final_ms: a caller's median time of an image under load, of which decode_share and rerank_share are parts.
    search_ms: median of one recall query over search_points points. postings_per_s: durable, on PostgreSQL.
    """

    graph_bytes_per_point: float
    payload_bytes_per_point: float
    ids_bytes_per_point: float
    ledger_bytes_per_posting: float
    catalogue_bytes_per_work: float
    thumbnail_bytes: float
    lite_operations: float
    vit_b_32_operations: float
    vit_b_8_operations: float
    lite_queries_per_core_s: float
    clip_passes_per_core_s: float
    dreamsim_passes_per_core_s: float
    final_ms: float
    decode_share: float
    rerank_share: float
    search_ms: float
    search_points: float
    postings_per_s: float


def shipped() -> Constants:
    """The constants of this release."""
    return Constants(**json.loads(FILE.read_text(encoding="utf-8")))


def measured(folder: Path) -> dict[str, float]:
    """The same figures as the files of docs/results say them now. Raises OSError or KeyError if one is missing."""
    reports: dict[str, Any] = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["figures"]
        for name in {file for file, _ in SOURCES.values()}
    }
    return {one.name: float(reports[SOURCES[one.name][0]][SOURCES[one.name][1]]) for one in fields(Constants)}


if __name__ == "__main__":
    FILE.write_text(json.dumps(measured(Path(sys.argv[1])), indent=2) + "\n", encoding="utf-8")
