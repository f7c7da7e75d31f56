"""The plan of a deployment: nodes of the index, compute, storage, and what drives the cost.

`python -m gmvaluator.planning.plan FILE` updates the table of the page FILE, which is docs/explanation/scale.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gmvaluator.planning.constants import Constants, shipped
from gmvaluator.planning.request import NO_GPU, PROFILES, PlanRequest
from gmvaluator.planning.resources import (
    BUILD_HEADROOM,
    UTILISATION,
    UTILISATION_BF16,
    IndexSize,
    ModelCompute,
    SearchLoad,
    index_size,
    model_compute,
    search_load,
)

GIB = 2**30
DAY_S = 86_400

FILLED = 0.8
"""Part of a node's memory and disk that a plan uses."""

# The remaining 40 % lets the other nodes carry the load when one fails.
BUSY = 0.6
"""Part of a node's cores and disk reads that a plan uses."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned deployment. nodes_by: nodes that each resource alone would need; the largest number decides."""

    request: PlanRequest
    index: IndexSize
    search: SearchLoad
    compute: ModelCompute
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
        """Return what the plan assumes without a measurement, a sentence each."""
        request = self.request
        lines = [
            f"the disk's share that building needs: {BUILD_HEADROOM - 1:.0%}",
            f"nodes are filled to {FILLED:.0%}, and busy to {BUSY:.0%}",
            f"page cache holds {request.cache_share:.0%} of the recall vectors, and that share of reads is saved",
            "a search takes time as the logarithm of a segment's points; measured at one size only",
        ]
        if request.gpu != NO_GPU and not request.gpu_images_per_s:
            share = (UTILISATION_BF16 if request.precision == "bf16" else UTILISATION)[request.profile]
            lines.append(
                f"a GPU reaches {share:.0%} of its peak: no GPU was available; measure yours and give "
                "--gpu-images-per-s"
            )
        if request.profile == "paper":
            lines.append("operations of MANIQA are counted from its architecture, for 20 crops; none were measured")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: the request, flat figures, what decides, what drives the cost, and the assumptions."""
        return {
            "wanted": asdict(self.request),
            "figures": dict(self.figures),
            "nodes_by": dict(self.nodes_by),
            "decided_by": self.decided_by,
            "cost_drivers": cost_drivers(self),
            "assumptions": self.assumptions(),
        }


def make_plan(request: PlanRequest, constants: Constants) -> Plan:
    """Compute the nodes, compute and storage that a deployment needs.

    Nodes by resource: replicas x bytes / (a node's x FILLED); load / (a node's x BUSY); at least replicas.

    Replicas answer queries too, so that they multiply the bytes and share the load.
    """
    index = index_size(request, constants)
    search = search_load(request, index, constants)
    node = request.node
    nodes_by = {
        "replicas": request.replicas,
        "ram": math.ceil(request.replicas * index.ram_bytes / (node.ram_gib * GIB * FILLED)),
        "disk": math.ceil(request.replicas * index.disk_bytes / (node.disk_gib * GIB * FILLED)),
        "cores": math.ceil(search.cores / (node.cores * BUSY)),
        "reads": math.ceil(search.reads_per_s / (node.iops * BUSY)),
    }
    compute = model_compute(request, constants)
    figures = _figures(request, constants, index, search, compute, max(nodes_by.values()))
    return Plan(request, index, search, compute, nodes_by, figures)


def _figures(
    request: PlanRequest, constants: Constants, index: IndexSize, search: SearchLoad, compute: ModelCompute, nodes: int
) -> dict[str, float]:
    """Return flat figures with their units in their names; those of the index are of all replicas."""
    return {
        "nodes": nodes,
        "index_ram_gib": request.replicas * index.ram_bytes / GIB,
        "index_disk_gib": request.replicas * index.disk_bytes / GIB,
        "ram_bytes_per_work": index.ram_bytes_per_point,
        "disk_bytes_per_work": index.disk_bytes_per_point,
        "segments": index.segments,
        "search_cores": search.cores,
        "disk_reads_per_s": search.reads_per_s,
        f"index_{compute.unit.lower()}_hours": compute.index_hours,
        f"index_{compute.unit.lower()}s": compute.index_units,
        f"serving_{compute.unit.lower()}s": compute.serving_units,
        "decoding_cores_beside_each": compute.decoding_cores if compute.unit == "GPU" else 0.0,
        "parts_cores": compute.parts_cores,
        "thumbnails_gib": request.images * constants.thumbnail_bytes / GIB,
        "catalogue_gib": request.images * constants.catalogue_bytes_per_work / GIB,
        "ledger_gib_per_day": request.qps * DAY_S * constants.ledger_bytes_per_posting / GIB,
        "ledger_load_share": request.qps / constants.postings_per_s,
    }


_CHEAPER = {
    "replicas": "the index is small, and the replicas are for safety alone",
    "ram": "stronger quantisation, or a smaller --cache-share",
    "disk": "fewer views: perceptual vectors and local features are most of a work's bytes",
    "cores": "fewer, larger segments, which fewer views allow, or a policy without parts: a query searches all of them",
    "reads": "more page cache, fewer views, or less oversampling",
}
"""Advice for each resource: what would reduce the need for it."""


def cost_drivers(plan: Plan) -> list[str]:
    """Return what drives the cost, the largest driver first, and what would reduce it."""
    first, second, *_ = sorted(plan.nodes_by, key=lambda name: -plan.nodes_by[name])
    return [
        f"{plan.nodes} nodes, decided by {first}: {_CHEAPER[first]}",
        f"{second} alone would need {plan.nodes_by[second]}: {_CHEAPER[second]}",
        f"{plan.compute.index_hours:,.0f} {plan.compute.unit}-hours of embedding, once for each profile: "
        "fewer views, or bf16",
        *_ledger_drivers(plan),
    ]


def _ledger_drivers(plan: Plan) -> list[str]:
    growth = f"the ledger grows by {plan.figures['ledger_gib_per_day']:,.1f} GiB a day, for as long as it is kept"
    if plan.figures["ledger_load_share"] <= BUSY:
        return [growth]
    overload = (
        f"one PostgreSQL commits {1 / plan.figures['ledger_load_share']:.2f} of this load durably: "
        "more than one ledger is needed, or a faster disk"
    )
    return [overload, growth]


BEGIN, END = "<!-- plan: begin -->", "<!-- plan: end -->"
"""Lines of the documentation's page between which the table is written."""

SIZES = ((1_000_000, 5.0), (100_000_000, 50.0), (5_000_000_000, 200.0))
"""Deployments that the documentation's table shows: works, and generated images a second."""

_HEAD = (
    "| works | images/s | profile | nodes | decided by | RAM, GiB | disk, GiB | segments | search cores | disk reads/s "
    "| L4-hours to index | L4s to serve | ledger, GiB a day |\n" + "|---" * 13 + "|\n"
)


def table(constants: Constants) -> str:
    """Return a Markdown table: each size with each profile, everything else at the defaults of `gmvaluator plan`."""
    return _HEAD + "".join(
        _row(make_plan(PlanRequest(images, qps, profile, vectors), constants))
        for images, qps in SIZES
        for profile, vectors in PROFILES.items()
    )


def _row(plan: Plan) -> str:
    figures = plan.figures
    cells = [
        f"{plan.request.images:,}",
        f"{plan.request.qps:g}",
        f"`{plan.request.profile}`",
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
    """Format with two or three significant figures: a plan is not more precise than that."""
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def with_table(page: str, constants: Constants) -> str:
    """Return the page with a new table between BEGIN and END."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(constants)}{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_table(file.read_text(encoding="utf-8"), shipped()), encoding="utf-8")
