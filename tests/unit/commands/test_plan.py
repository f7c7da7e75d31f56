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
from gmvaluator.planning.constants import SOURCES, Constants, measured, shipped
from gmvaluator.planning.plan import GIB, GPUS, PROFILES, Node, Vectors, Wanted, make_plan, with_table
from gmvaluator.planning.resources import index_size, segments_of

DOCS = Path(__file__).parents[3] / "docs"
ROUND = Constants(
    graph_bytes_per_point=80,
    payload_bytes_per_point=300,
    ids_bytes_per_point=20,
    ledger_bytes_per_posting=10_000,
    catalogue_bytes_per_work=500,
    thumbnail_bytes=10_000,
    lite_operations=1e9,
    vit_b_32_operations=1e10,
    vit_b_8_operations=1e11,
    lite_queries_per_core_s=50,
    clip_passes_per_core_s=10,
    dreamsim_passes_per_core_s=10,
    final_ms=100,
    decode_share=0.1,
    rerank_share=0.1,
    search_ms=10,
    search_points=10_000,
    postings_per_s=400,
)
"""Figures that a head can reckon with."""


def test_the_constants_are_those_of_docs_results() -> None:
    assert {one.name for one in fields(Constants)} == SOURCES.keys()
    found = measured(DOCS / "results")
    for name, value in found.items():
        assert getattr(shipped(), name) == pytest.approx(value), (
            "write them anew: python -m gmvaluator.planning.constants docs/results, "
            "then python -m gmvaluator.planning.plan docs/explanation/scale.md"
        )


def test_the_table_in_the_documentation_is_the_commands() -> None:
    page = (DOCS / "explanation" / "scale.md").read_text(encoding="utf-8")
    assert with_table(page, shipped()) == page, (
        "write it anew: python -m gmvaluator.planning.plan docs/explanation/scale.md"
    )


def test_the_profiles_are_planned_with_their_own_vectors() -> None:
    lite = profile_identity(ProfileChoice("lite"))
    assert PROFILES["lite"] == Vectors(lite.recall_dim, lite.perceptual_dim, lite.perceptual_views)
    paper = specs_of(ProfileChoice("paper", rerank="dreamsim:open_clip_vitb32"))
    assert PROFILES["paper"] == Vectors(paper.recall.dim, paper.perceptual.dim, 1)


def test_a_plan_by_hand() -> None:
    """A million works: 128 B of codes, 80 of graph, 20 of ids, a tenth of 2,048; then 4,096 of vectors, 300 more."""
    wanted = Wanted(1_000_000, 10, "paper", Vectors(512, 512, 1), node=Node(16, 100, 8, 100_000), gpu="h100")
    found = make_plan(wanted, ROUND)
    assert found.index.ram_bytes_per_point == pytest.approx(128 + 80 + 20 + 204.8)
    assert found.index.disk_bytes_per_point == pytest.approx(1.3 * (2048 + 2048 + 128 + 80 + 20 + 300))
    assert found.index.segments == 1
    # One segment: 10 ms x ln(10^6) / ln(10^4) = 15 ms, and 10 ms to re-rank.
    assert found.searching.core_s_per_query == pytest.approx(0.025)
    assert found.searching.reads_per_query == pytest.approx(800 * 0.9 + 200)
    # 67 x 10^12 x 0.35 / (2 x 10^10) works a second.
    assert found.computing.works_per_s == pytest.approx(1172.5)
    assert found.computing.index_hours == pytest.approx(1e6 / 1172.5 / 3600)
    assert found.computing.queries_per_s == pytest.approx(67e12 * 0.35 / (2e10 + 20 * 1e11))
    assert found.nodes_by == {"replicas": 2, "ram": 1, "disk": 1, "cores": 1, "reads": 1}
    assert found.figures["ledger_gib_per_day"] == pytest.approx(10 * 86_400 * 10_000 / GIB)
    assert found.figures["ledger_load_share"] == pytest.approx(0.025)


def test_a_cpu_is_planned_by_what_one_core_did() -> None:
    lite = make_plan(Wanted(3_600, 1, gpu="none", vectors=Vectors(512, 514, 10)), ROUND).computing
    assert (lite.unit, lite.works_per_s, lite.queries_per_s) == ("core", 10, 50)
    assert lite.index_hours == pytest.approx(0.1)
    paper = make_plan(Wanted(3_600, 1, "paper", PROFILES["paper"], gpu="none"), ROUND).computing
    assert paper.works_per_s == pytest.approx(5)
    assert paper.queries_per_s == pytest.approx(1 / (0.2 + 20 * 1e11 / 1e11))


def test_ten_views_are_paid_for_on_disk_in_passes_and_in_segments() -> None:
    one = make_plan(Wanted(100_000_000, 10, vectors=Vectors(512, 512, 1)), ROUND)
    ten = make_plan(Wanted(100_000_000, 10, vectors=Vectors(512, 512, 10)), ROUND)
    assert ten.index.disk_bytes > 4 * one.index.disk_bytes
    assert ten.index.ram_bytes == one.index.ram_bytes
    assert ten.computing.index_hours == pytest.approx(10 * one.computing.index_hours)
    assert one.index.segments == segments_of(100_000_000, 2_048) == 3
    assert ten.index.segments == segments_of(100_000_000, 20_480) == 30
    assert ten.searching.core_s_per_query > 5 * one.searching.core_s_per_query


def test_what_is_asked_for_more_costs_more() -> None:
    wanted = Wanted(10_000_000, 10)
    size = index_size(wanted, ROUND)
    assert index_size(replace(wanted, quantisation="pq-x64"), ROUND).ram_bytes < size.ram_bytes
    assert index_size(replace(wanted, cache_share=1.0), ROUND).ram_bytes > size.ram_bytes
    assert index_size(replace(wanted, images=20_000_000), ROUND).ram_bytes == 2 * size.ram_bytes
    plan = make_plan(wanted, ROUND)
    assert make_plan(replace(wanted, replicas=3), ROUND).figures["index_disk_gib"] == pytest.approx(
        1.5 * plan.figures["index_disk_gib"]
    )
    assert make_plan(replace(wanted, qps=20), ROUND).searching.cores == pytest.approx(2 * plan.searching.cores)
    faster = make_plan(replace(wanted, gpu_images_per_s=2 * plan.computing.works_per_s), ROUND).computing
    assert faster.index_hours == pytest.approx(plan.computing.index_hours / 2)
    assert faster.queries_per_s == pytest.approx(2 * plan.computing.queries_per_s)


@pytest.mark.parametrize(
    ("node", "qps", "resource"),
    [(Node(1, 1e6, 512, 1e9), 0.01, "ram"), (Node(1e6, 10, 512, 1e9), 0.01, "disk"),
     (Node(1e6, 1e6, 1, 1e9), 100, "cores"), (Node(1e6, 1e6, 512, 100), 100, "reads"),
     (Node(1e6, 1e6, 512, 1e9), 0.01, "replicas")],
)  # fmt: skip
def test_the_scarcest_resource_decides_and_is_named(node: Node, qps: float, resource: str) -> None:
    found = make_plan(Wanted(10_000_000, qps, node=node), ROUND)
    assert found.decided_by == resource
    assert found.nodes == found.nodes_by[resource] == found.figures["nodes"]
    assert f"decided by {resource}" in found.as_dict()["cost_drivers"][0]


def test_what_is_assumed_is_said() -> None:
    assert any("no GPU was at hand" in line for line in make_plan(Wanted(1_000, 1), ROUND).assumptions())
    measured_gpu = make_plan(Wanted(1_000, 1, gpu_images_per_s=100), ROUND)
    assert not any("no GPU was at hand" in line for line in measured_gpu.assumptions())


@pytest.mark.parametrize("change", [{"gpu": "t4", "precision": "bf16"}, {"gpu": "x"}, {"quantisation": "x"},
                                    {"profile": "x"}])  # fmt: skip
def test_what_cannot_be_planned_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Wanted(1_000, 1, **change)


def test_the_command_says_the_same_in_both_forms() -> None:
    words = ["--images", "1000000", "--qps", "5", "--dim", "256", "--gpu", "a100"]
    data = json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)
    expected = make_plan(
        Wanted(1_000_000, 5.0, vectors=replace(PROFILES["lite"], recall_dim=256), gpu="a100"), shipped()
    )
    assert data["figures"] == dict(expected.figures)
    assert set(data) == {"wanted", "figures", "nodes_by", "decided_by", "cost_drivers", "assumptions"}
    text = CliRunner().invoke(command, words).stdout
    for line in [*expected.figures, *data["assumptions"], *data["cost_drivers"]]:
        assert line in text


def test_qdrants_values_have_room_for_what_they_name() -> None:
    text = (DOCS.parent / "deploy" / "kubernetes" / "helm" / "qdrant.yaml").read_text(encoding="utf-8")
    named = re.search(r"`gmvaluator plan --images (\d+) --qps (\d+) --profile (\w+)`", text)
    assert named is not None
    figures = make_plan(Wanted(int(named[1]), float(named[2]), named[3], PROFILES[named[3]]), shipped()).figures
    values = yaml.safe_load(text)
    nodes, memory = values["replicaCount"], values["resources"]["requests"]["memory"]
    assert nodes >= figures["nodes"]
    assert nodes * int(memory.removesuffix("Gi")) >= figures["index_ram_gib"]
    assert nodes * int(values["persistence"]["size"].removesuffix("Gi")) >= figures["index_disk_gib"]


def test_every_gpu_can_be_planned_with() -> None:
    hours = {name: make_plan(Wanted(1_000_000, 1, gpu=name), ROUND).computing.index_hours for name in GPUS}
    assert min(hours, key=hours.__getitem__) == "l40s"
    assert max(hours, key=hours.__getitem__) == "t4"
