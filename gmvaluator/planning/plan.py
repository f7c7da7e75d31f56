"""A whole plan: the index's nodes, models, ledger, and what drives the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gmvaluator.planning.computing import UTILISATION, UTILISATION_BF16, Computing, computing
from gmvaluator.planning.constants import Constants
from gmvaluator.planning.index_size import BUILD_HEADROOM, IndexSize, index_size
from gmvaluator.planning.searching import Searching, searching
from gmvaluator.planning.wanted import GIB, NO_GPU, Wanted

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
