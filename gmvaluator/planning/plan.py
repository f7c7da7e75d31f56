"""A whole plan: the index's nodes, models, ledger, and what drives the cost.

What a plan is made for: images, vectors, load, machines.

The table of docs/explanation/scale.md: `python -m gmvaluator.planning.plan` writes it anew between its marks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gmvaluator.errors import InvalidInput
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT
from gmvaluator.planning.constants import Constants, shipped
from gmvaluator.planning.resources import (
    BUILD_HEADROOM,
    UTILISATION,
    UTILISATION_BF16,
    Computing,
    IndexSize,
    Searching,
    computing,
    index_size,
    searching,
)

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Vectors:
    """What one work is in the index: one recall vector of recall_dim, `views` perceptual ones of perceptual_dim."""

    recall_dim: int
    perceptual_dim: int
    views: int


PROFILES = {"lite": Vectors(512, 514, 10), "paper": Vectors(512, 512, 1)}
"""Vectors of the profiles, a test holds them against the profiles themselves. `paper` is planned with `--rerank
dreamsim:open_clip_vitb32`, the variant whose speed was measured; its default, an ensemble of three larger networks, has
1,792 dimensions and about twelve times the operations."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the index. iops: random reads of 4 KiB its disk does a second."""

    ram_gib: float = 64.0
    disk_gib: float = 2_000.0
    cores: int = 16
    iops: float = 200_000.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: peak of dense arithmetic in 10^12 operations a second, as its maker's data sheet says it.

    fp32: without tensor cores, which is what the product uses by default. bf16: with them; 0 where there is none.
    """

    name: str
    fp32: float
    bf16: float


GPUS = {
    one.name: one
    for one in (
        Gpu("t4", 8.1, 0.0),
        Gpu("l4", 30.3, 121.0),
        Gpu("a10", 31.2, 125.0),
        Gpu("l40s", 91.6, 362.0),
        Gpu("a100", 19.5, 312.0),
        Gpu("h100", 67.0, 989.0),
        Gpu("h200", 67.0, 989.0),
    )
}
"""NVIDIA's data sheets, dense figures (half of those with sparsity), the SXM kind of A100, H100 and H200."""

NO_GPU = "none"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    images: works in the index. qps: generated images a second, on average over a day for storage and at its peak for
    speed. gpu: a key of GPUS, or NO_GPU. precision: fp32 or bf16. gpu_images_per_s: works a second that one GPU was
    seen to embed; 0: reckoned from its peak. hours: in which the index has to be made. cache_share: of the recall
    vectors' originals that page cache holds.
    """

    images: int
    qps: float
    profile: str = "lite"
    vectors: Vectors = PROFILES["lite"]
    quantisation: str = DEFAULT
    replicas: int = 2
    node: Node = Node()
    gpu: str = "l4"
    precision: str = "fp32"
    gpu_images_per_s: float = 0.0
    hours: float = 24.0
    cache_share: float = 0.1

    def __post_init__(self) -> None:
        """Raises InvalidInput if nothing can be planned for this."""
        if self.quantisation not in CHOICES:
            raise InvalidInput(f"quantisation {self.quantisation!r} is refused: use one of {', '.join(CHOICES)}")
        if self.profile not in PROFILES:
            raise InvalidInput(f"profile {self.profile!r} is refused: use one of {', '.join(PROFILES)}")
        if self.gpu != NO_GPU and self.gpu not in GPUS:
            raise InvalidInput(f"GPU {self.gpu!r} is not known: use one of {', '.join([NO_GPU, *GPUS])}")
        if self.gpu != NO_GPU and self.precision == "bf16" and not GPUS[self.gpu].bf16:
            raise InvalidInput(f"a {self.gpu} does not compute in bf16: plan in fp32, or with another GPU")


DAY_S = 86_400
FILLED = 0.8
"""Part of a node's memory and disk that is planned to be used."""

BUSY = 0.6
"""Part of its cores and reads, so that the loss of a node is borne."""


@dataclass(frozen=True, slots=True)
class Plan:
    """nodes_by: how many nodes each resource alone would need; the largest decides."""

    wanted: Wanted
    index: IndexSize
    searching: Searching
    computing: Computing
    nodes_by: Mapping[str, int]
    figures: Mapping[str, float]

    @property
    def nodes(self) -> int:
        return max(self.nodes_by.values())

    @property
    def decided_by(self) -> str:
        """The resource that decides the number of nodes."""
        return max(self.nodes_by, key=lambda name: self.nodes_by[name])

    def assumptions(self) -> list[str]:
        """What is in the plan and was not measured."""
        said = [
            f"the disk's share that building needs: {BUILD_HEADROOM - 1:.0%}",
            f"nodes are filled to {FILLED:.0%}, and busy to {BUSY:.0%}",
            f"page cache holds {self.wanted.cache_share:.0%} of the recall vectors, and that share of reads is saved",
            "a search takes time as the logarithm of a segment's points; measured at one size only",
        ]
        if self.wanted.gpu != NO_GPU and not self.wanted.gpu_images_per_s:
            share = (UTILISATION_BF16 if self.wanted.precision == "bf16" else UTILISATION)[self.wanted.profile]
            said.append(
                f"a GPU reaches {share:.0%} of its peak: no GPU was at hand; measure, and give --gpu-images-per-s"
            )
        if self.wanted.profile == "paper":
            said.append("of MANIQA the ViT-B/8 on 20 crops is counted, what is behind it is not")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what was asked, flat figures, what decides, what drives the cost, what was assumed."""
        return {
            "wanted": asdict(self.wanted),
            "figures": dict(self.figures),
            "nodes_by": dict(self.nodes_by),
            "decided_by": self.decided_by,
            "cost_drivers": drivers(self),
            "assumptions": self.assumptions(),
        }


def make_plan(wanted: Wanted, measured: Constants) -> Plan:
    """Nodes by resource: replicas x bytes / (a node's x FILLED); load / (a node's x BUSY); at least replicas.

    Replicas answer queries too, so that they multiply bytes and not load.
    """
    index = index_size(wanted, measured)
    searches = searching(wanted, index, measured)
    node = wanted.node
    nodes_by = {
        "replicas": wanted.replicas,
        "ram": math.ceil(wanted.replicas * index.ram_bytes / (node.ram_gib * GIB * FILLED)),
        "disk": math.ceil(wanted.replicas * index.disk_bytes / (node.disk_gib * GIB * FILLED)),
        "cores": math.ceil(searches.cores / (node.cores * BUSY)),
        "reads": math.ceil(searches.reads_per_s / (node.iops * BUSY)),
    }
    models = computing(wanted, measured)
    figures = _figures(wanted, measured, index, searches, models, max(nodes_by.values()))
    return Plan(wanted, index, searches, models, nodes_by, figures)


def _figures(
    wanted: Wanted, measured: Constants, index: IndexSize, searches: Searching, models: Computing, nodes: int
) -> dict[str, float]:
    """Flat, units in names. The index's are of all replicas."""
    return {
        "nodes": nodes,
        "index_ram_gib": wanted.replicas * index.ram_bytes / GIB,
        "index_disk_gib": wanted.replicas * index.disk_bytes / GIB,
        "ram_bytes_per_work": index.ram_bytes_per_point,
        "disk_bytes_per_work": index.disk_bytes_per_point,
        "segments": index.segments,
        "search_cores": searches.cores,
        "disk_reads_per_s": searches.reads_per_s,
        f"index_{models.unit.lower()}_hours": models.index_hours,
        f"index_{models.unit.lower()}s": models.index_units,
        f"serving_{models.unit.lower()}s": models.serving_units,
        "decoding_cores_beside_each": models.decoding_cores if models.unit == "GPU" else 0.0,
        "thumbnails_gib": wanted.images * measured.thumbnail_bytes / GIB,
        "catalogue_gib": wanted.images * measured.catalogue_bytes_per_work / GIB,
        "ledger_gib_per_day": wanted.qps * DAY_S * measured.ledger_bytes_per_posting / GIB,
        "ledger_load_share": wanted.qps / measured.postings_per_s,
    }


def drivers(plan: Plan) -> list[str]:
    """What makes it dear, the largest first, and what would make it cheaper."""
    by = sorted(plan.nodes_by, key=lambda name: -plan.nodes_by[name])
    said = [f"{plan.nodes} nodes, decided by {by[0]}: {_CHEAPER[by[0]]}"]
    said += [f"{by[1]} alone would need {plan.nodes_by[by[1]]}: {_CHEAPER[by[1]]}"] if by[1] != by[0] else []
    models = plan.computing
    said.append(
        f"{models.index_hours:,.0f} {models.unit}-hours of embedding, once for each profile: fewer views, or bf16"
    )
    if plan.figures["ledger_load_share"] > BUSY:
        said.append(
            f"one PostgreSQL commits {1 / plan.figures['ledger_load_share']:.2f} of this load durably: "
            "more than one ledger is needed, or a faster disk"
        )
    said.append(f"the ledger grows by {plan.figures['ledger_gib_per_day']:,.1f} GiB a day, for as long as it is kept")
    return said


_CHEAPER = {
    "replicas": "the index is small, and the copies are for safety alone",
    "ram": "stronger quantisation, or a smaller --cache-share",
    "disk": "fewer views: perceptual vectors are most of a work's bytes",
    "cores": "fewer, larger segments, which fewer views allow: every query asks all of them",
    "reads": "more page cache, fewer views, or less oversampling",
}

BEGIN, END = "<!-- plan: begin -->", "<!-- plan: end -->"
SIZES = ((1_000_000, 5.0), (100_000_000, 50.0), (5_000_000_000, 200.0))
_HEAD = (
    "| works | images/s | profile | nodes | decided by | RAM, GiB | disk, GiB | segments | search cores | disk reads/s "
    "| L4-hours to index | L4s to serve | ledger, GiB a day |\n" + "|---" * 13 + "|\n"
)


def table(measured: Constants) -> str:
    """Markdown: each size with each profile, everything else as `gmvaluator plan` has it by default."""
    return _HEAD + "".join(
        _row(make_plan(Wanted(images, qps, profile, vectors), measured))
        for images, qps in SIZES
        for profile, vectors in PROFILES.items()
    )


def _row(plan: Plan) -> str:
    figures = plan.figures
    cells = [
        f"{plan.wanted.images:,}",
        f"{plan.wanted.qps:g}",
        f"`{plan.wanted.profile}`",
        f"{plan.nodes:,}",
        plan.decided_by,
        _number(figures["index_ram_gib"]),
        _number(figures["index_disk_gib"]),
        _number(figures["segments"]),
        _number(figures["search_cores"]),
        _number(figures["disk_reads_per_s"]),
        _number(figures["index_gpu_hours"]),
        _number(figures["serving_gpus"]),
        _number(figures["ledger_gib_per_day"]),
    ]
    return f"| {' | '.join(cells)} |\n"


def _number(value: float) -> str:
    """Two figures that count, or three: nobody plans closer than that."""
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def with_table(page: str, measured: Constants) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(measured)}{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_table(file.read_text(encoding="utf-8"), shipped()), encoding="utf-8")
