"""`gmvaluator plan`: estimate how many machines a deployment needs."""

from __future__ import annotations

import json
from dataclasses import replace

import rich_click as click

from gmvaluator.commands.options import json_option
from gmvaluator.commands.parameters import FiniteRange
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT_QUANTISATION
from gmvaluator.planning.constants import shipped
from gmvaluator.planning.plan import Plan, make_plan
from gmvaluator.planning.request import GPUS, NO_GPU, PROFILES, Node, PlanRequest

_NODE = Node()


@click.command()
@click.option("--images", required=True, type=click.IntRange(1, 10**12), help="Works in the index.")
@click.option("--qps", required=True, type=FiniteRange(0.001, 1e6), help="Generated images a second.")
@click.option("--profile", default="lite", show_default=True, type=click.Choice(list(PROFILES)), help="Models to use.")
@click.option("--dim", type=click.IntRange(8, 65_536), help="Dimensions of a recall vector; default: the profile's.")
@click.option(
    "--perceptual-dim",
    type=click.IntRange(8, 65_536),
    help="Dimensions of a perceptual vector; default: the profile's.",
)
@click.option("--views", type=click.IntRange(1, 1_000), help="Perceptual vectors a work; default: the profile's.")
@click.option(
    "--quantisation",
    default=DEFAULT_QUANTISATION,
    show_default=True,
    type=click.Choice(CHOICES),
    help="Compression of the recall vectors.",
)
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(1, 10), help="Replicas of the index.")
@click.option("--node-ram", default=_NODE.ram_gib, show_default=True, type=FiniteRange(1, 1e6), help="GiB of a node.")
@click.option("--node-disk", default=_NODE.disk_gib, show_default=True, type=FiniteRange(1, 1e9), help="GiB of a node.")
@click.option(
    "--node-cores", default=_NODE.cores, show_default=True, type=click.IntRange(1, 10_000), help="Cores of a node."
)
@click.option(
    "--node-iops", default=_NODE.iops, show_default=True, type=FiniteRange(1, 1e9), help="Random reads/s of its disk."
)
@click.option(
    "--gpu", default="l4", show_default=True, type=click.Choice([NO_GPU, *GPUS]), help="GPU that runs the models."
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16"]),
    help="What the models compute in.",
)
@click.option(
    "--gpu-images-per-s",
    default=0.0,
    type=FiniteRange(0, 1e6),
    help="Works/s that one GPU embeds, as you measured it; 0: estimate it.",
)
@click.option(
    "--hours", default=24.0, show_default=True, type=FiniteRange(0.1, 1e6), help="Time to build the index in."
)
@click.option(
    "--cache-share",
    default=0.1,
    show_default=True,
    type=FiniteRange(0, 1),
    help="Part of the recall vectors to keep in RAM.",
)
@json_option
def plan(
    images: int,
    qps: float,
    profile: str,
    dim: int | None,
    perceptual_dim: int | None,
    views: int | None,
    quantisation: str,
    replicas: int,
    node_ram: float,
    node_disk: float,
    node_cores: int,
    node_iops: float,
    gpu: str,
    precision: str,
    gpu_images_per_s: float,
    hours: float,
    cache_share: float,
    as_json: bool,
) -> None:
    """Estimate the nodes, memory, disk and GPU-hours that a number of works and a load need.

    The output tells measured, computed and assumed figures apart; docs/explanation/scale.md has the formulae.

    Example: gmvaluator plan --images 100000000 --qps 50 --gpu l4
    """
    default = PROFILES[profile]
    vectors = replace(
        default,
        recall_dim=dim or default.recall_dim,
        perceptual_dim=perceptual_dim or default.perceptual_dim,
        views=views or default.views,
    )
    node = Node(node_ram, node_disk, node_cores, node_iops)
    request = PlanRequest(images, qps, profile, vectors, quantisation, replicas, node, gpu, precision,
                          gpu_images_per_s, hours, cache_share)  # fmt: skip
    made = make_plan(request, shipped())
    if as_json:
        click.echo(json.dumps(made.as_dict(), indent=2))
    else:
        _print(made)


def _print(made: Plan) -> None:
    request, vectors = made.request, made.request.vectors
    click.echo(
        f"{request.images:,} works, {request.qps:g} images a second, profile {request.profile}: a vector of "
        f"{vectors.recall_dim} in {request.quantisation}, {vectors.views} of {vectors.perceptual_dim}, "
        f"{request.replicas} replicas"
    )
    for name, value in made.figures.items():
        click.echo(f"  {name:<28}{value:>18,.{0 if value >= 100 or value == int(value) else 2}f}")
    alone = ", ".join(f"{name} {count:,}" for name, count in made.nodes_by.items())
    click.echo(f"nodes that each resource alone would need: {alone}")
    for title, lines in (("What drives the cost", made.as_dict()["cost_drivers"]), ("Assumed", made.assumptions())):
        click.echo(f"{title}:")
        for line in lines:
            click.echo(f"  - {line}")
