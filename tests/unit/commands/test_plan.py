"""A plan follows its formulae and measured figures; docs/explanation/scale.md shows the output of the command."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gmvaluator.commands.plan import plan as command
from gmvaluator.errors import InvalidInput
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.known_models import specs_of
from gmvaluator.models.profiles import profile_identity
from gmvaluator.planning.constants import COUNTED, MEASURED, Constants, read_constants, shipped
from gmvaluator.planning.plan import GIB, make_plan, with_table
from gmvaluator.planning.request import GPUS, PROFILES, Node, PlanRequest, Vectors
from gmvaluator.planning.resources import index_size, segments_of

DOCS = Path(__file__).parents[3] / "docs"
ROUND = Constants(
    graph_bytes_per_point=80,
    payload_bytes_per_point=300,
    local_features_bytes_per_point=15_000,
    ids_bytes_per_point=20,
    ledger_bytes_per_posting=10_000,
    catalogue_bytes_per_work=500,
    thumbnail_bytes=10_000,
    lite_operations=1e9,
    vit_b_32_operations=1e10,
    maniqa_crop_operations=1e11,
    lite_queries_per_core_s=50,
    clip_passes_per_core_s=10,
    dreamsim_passes_per_core_s=10,
    windows_ratio=4,
    parts_ms=120,
    work_detection_ms=100,
    final_ms=100,
    decode_share=0.1,
    rerank_share=0.1,
    search_ms=10,
    search_points=10_000,
    postings_per_s=400,
)
"""Round figures, so that the expected results can be computed by hand."""


def test_shipped_constants_equal_those_of_docs_results() -> None:
    assert {field.name for field in fields(Constants)} == MEASURED.keys() | COUNTED.keys()
    for name, value in read_constants(DOCS / "results").items():
        assert getattr(shipped(), name) == pytest.approx(value), (
            "update them: python -m gmvaluator.planning.constants docs/results, "
            "then python -m gmvaluator.planning.plan docs/explanation/scale.md"
        )


def test_documented_table_is_current() -> None:
    page = (DOCS / "explanation" / "scale.md").read_text(encoding="utf-8")
    assert with_table(page, shipped()) == page, (
        "update it: python -m gmvaluator.planning.plan docs/explanation/scale.md"
    )


def test_planned_vectors_are_those_of_the_profiles() -> None:
    lite = profile_identity(ProfileChoice("lite"))
    assert PROFILES["lite"] == Vectors(lite.recall_dim, lite.perceptual_dim, lite.perceptual_views)
    paper = specs_of(ProfileChoice("paper", rerank="dreamsim:open_clip_vitb32"))
    assert PROFILES["paper"] == Vectors(paper.recall.dim, paper.perceptual.dim, 1)


def test_plan_equals_one_computed_by_hand() -> None:
    """A million works: 128 B of codes, 80 of graph, 20 of ids, a tenth of 2,048; then 4,096 of vectors, 15,300 more."""
    request = PlanRequest(1_000_000, 10, "paper", Vectors(512, 512, 1), node=Node(16, 100, 8, 100_000), gpu="h100")
    planned = make_plan(request, ROUND)
    assert planned.index.ram_bytes_per_point == pytest.approx(128 + 80 + 20 + 204.8)
    assert planned.index.disk_bytes_per_point == pytest.approx(1.3 * (2048 + 2048 + 128 + 80 + 20 + 300 + 15_000))
    assert planned.index.segments == 1
    # One segment: 10 ms x ln(10^6) / ln(10^4) = 15 ms, and 10 ms to re-rank.
    assert planned.search.core_s_per_query == pytest.approx(0.025)
    assert planned.search.reads_per_query == pytest.approx(800 * 0.9 + 200)
    # 67 x 10^12 x 0.35 / (2 x 10^10) works a second.
    assert planned.compute.works_per_s == pytest.approx(1172.5)
    assert planned.compute.index_hours == pytest.approx(1e6 / 1172.5 / 3600)
    assert planned.compute.queries_per_s == pytest.approx(67e12 * 0.35 / (2e10 + 20 * 1e11))
    assert planned.nodes_by == {"replicas": 2, "ram": 1, "disk": 1, "cores": 1, "reads": 1}
    assert planned.figures["ledger_gib_per_day"] == pytest.approx(10 * 86_400 * 10_000 / GIB)
    assert planned.figures["ledger_load_share"] == pytest.approx(0.025)


def test_plan_on_cpus_uses_the_measured_rate_of_one_core() -> None:
    lite = make_plan(PlanRequest(3_600, 1, gpu="none", vectors=Vectors(512, 514, 10)), ROUND).compute
    # Ten views are five images of two, at 50 a second: 0.1 s, and 0.1 s of detection.
    assert lite.unit == "core"
    assert [lite.works_per_s, lite.index_hours] == pytest.approx([5, 0.2])
    # Four times 0.02 s of embedding, and 0.12 s of looking for works in parts.
    assert [lite.queries_per_s, lite.parts_cores] == pytest.approx([5, 0])
    paper = make_plan(PlanRequest(3_600, 1, "paper", PROFILES["paper"], gpu="none"), ROUND).compute
    assert paper.works_per_s == pytest.approx(1 / (0.2 + 0.1))
    assert paper.queries_per_s == pytest.approx(1 / (0.2 + 20 * 1e11 / 1e11))


def test_more_views_need_more_disk_passes_and_segments() -> None:
    one = make_plan(PlanRequest(100_000_000, 10, vectors=Vectors(512, 512, 1)), ROUND)
    ten = make_plan(PlanRequest(100_000_000, 10, vectors=Vectors(512, 512, 10)), ROUND)
    assert ten.index.disk_bytes_per_point - one.index.disk_bytes_per_point == pytest.approx(1.3 * 9 * 2_048)
    assert ten.index.ram_bytes == one.index.ram_bytes
    assert ten.compute.index_hours == pytest.approx(10 * one.compute.index_hours)
    assert one.index.segments == segments_of(100_000_000, 2_048) == 3
    assert ten.index.segments == segments_of(100_000_000, 20_480) == 30
    assert ten.search.core_s_per_query > 5 * one.search.core_s_per_query


def test_parts_of_images_cost_searches_reads_and_cores() -> None:
    """28 recall queries instead of one, 27 of them of ten candidates, and cores beside the GPUs."""
    parts = make_plan(PlanRequest(10_000, 10, "lite", Vectors(512, 512, 1)), ROUND)
    whole = make_plan(PlanRequest(10_000, 10, "paper", Vectors(512, 512, 1)), ROUND)
    assert parts.search.core_s_per_query == pytest.approx(28 * 0.01 + 470 / 200 * 0.01)
    assert whole.search.core_s_per_query == pytest.approx(0.01 + 0.01)
    assert parts.search.reads_per_query == pytest.approx(2.35 * whole.search.reads_per_query)
    assert [plan.figures["parts_cores"] for plan in (parts, whole)] == pytest.approx([1.2, 0])
    assert parts.compute.queries_per_s == pytest.approx(parts.compute.works_per_s / 6)


def test_larger_requests_need_more_resources() -> None:
    request = PlanRequest(10_000_000, 10)
    size = index_size(request, ROUND)
    assert index_size(replace(request, quantisation="pq-x64"), ROUND).ram_bytes < size.ram_bytes
    assert index_size(replace(request, cache_share=1.0), ROUND).ram_bytes > size.ram_bytes
    assert index_size(replace(request, images=20_000_000), ROUND).ram_bytes == 2 * size.ram_bytes
    plan = make_plan(request, ROUND)
    assert make_plan(replace(request, replicas=3), ROUND).figures["index_disk_gib"] == pytest.approx(
        1.5 * plan.figures["index_disk_gib"]
    )
    assert make_plan(replace(request, qps=20), ROUND).search.cores == pytest.approx(2 * plan.search.cores)
    faster = make_plan(replace(request, gpu_images_per_s=2 * plan.compute.works_per_s), ROUND).compute
    assert faster.index_hours == pytest.approx(plan.compute.index_hours / 2)
    assert faster.queries_per_s == pytest.approx(2 * plan.compute.queries_per_s)


@pytest.mark.parametrize(
    ("node", "qps", "resource"),
    [(Node(1, 1e6, 512, 1e9), 0.01, "ram"), (Node(1e6, 10, 512, 1e9), 0.01, "disk"),
     (Node(1e6, 1e6, 1, 1e9), 100, "cores"), (Node(1e6, 1e6, 512, 100), 100, "reads"),
     (Node(1e6, 1e6, 512, 1e9), 0.01, "replicas")],
)  # fmt: skip
def test_scarcest_resource_decides_and_is_named(node: Node, qps: float, resource: str) -> None:
    planned = make_plan(PlanRequest(10_000_000, qps, node=node), ROUND)
    assert planned.decided_by == resource
    assert planned.nodes == planned.nodes_by[resource] == planned.figures["nodes"]
    assert f"decided by {resource}" in planned.as_dict()["cost_drivers"][0]


def test_assumed_utilisation_is_listed_unless_measured() -> None:
    assert any("no GPU was available" in line for line in make_plan(PlanRequest(1_000, 1), ROUND).assumptions())
    measured_gpu = make_plan(PlanRequest(1_000, 1, gpu_images_per_s=100), ROUND)
    assert not any("no GPU was available" in line for line in measured_gpu.assumptions())


@pytest.mark.parametrize("change", [{"gpu": "t4", "precision": "bf16"}, {"gpu": "x"}, {"quantisation": "x"},
                                    {"profile": "x"}])  # fmt: skip
def test_impossible_requests_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        PlanRequest(1_000, 1, **change)


def test_command_prints_the_same_figures_as_text_and_json() -> None:
    words = ["--images", "1000000", "--qps", "5", "--dim", "256", "--gpu", "a100"]
    data = json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)
    expected = make_plan(
        PlanRequest(1_000_000, 5.0, vectors=replace(PROFILES["lite"], recall_dim=256), gpu="a100"), shipped()
    )
    assert data["figures"] == dict(expected.figures)
    assert set(data) == {"wanted", "figures", "nodes_by", "decided_by", "cost_drivers", "assumptions"}
    text = CliRunner().invoke(command, words).stdout
    for line in [*expected.figures, *data["assumptions"], *data["cost_drivers"]]:
        assert line in text


def test_qdrant_values_satisfy_the_plan_they_name() -> None:
    text = (DOCS.parent / "deploy" / "kubernetes" / "helm" / "qdrant.yaml").read_text(encoding="utf-8")
    named = re.search(r"`gmvaluator plan --images (\d+) --qps (\d+) --profile (\w+)`", text)
    assert named is not None
    figures = make_plan(PlanRequest(int(named[1]), float(named[2]), named[3], PROFILES[named[3]]), shipped()).figures
    values = yaml.safe_load(text)
    nodes, memory = values["replicaCount"], values["resources"]["requests"]["memory"]
    assert nodes >= figures["nodes"]
    assert nodes * int(memory.removesuffix("Gi")) >= figures["index_ram_gib"]
    assert nodes * int(values["persistence"]["size"].removesuffix("Gi")) >= figures["index_disk_gib"]


def test_every_gpu_can_be_planned() -> None:
    hours = {name: make_plan(PlanRequest(1_000_000, 1, gpu=name), ROUND).compute.index_hours for name in GPUS}
    assert min(hours, key=hours.__getitem__) == "l40s"
    assert max(hours, key=hours.__getitem__) == "t4"
