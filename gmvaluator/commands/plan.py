"""`gmvaluator plan`: how many machines a deployment needs."""

from __future__ import annotations

import json
from dataclasses import replace

import rich_click as click

from gmvaluator.commands.options import json_option
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT
from gmvaluator.planning.constants import shipped
from gmvaluator.planning.plan import GPUS, NO_GPU, PROFILES, Node, Plan, Wanted, make_plan

_NODE = Node()


@click.command()
@click.option("--images", required=True, type=click.IntRange(1, 10**12), help="Works in the index.")
@click.option("--qps", required=True, type=click.FloatRange(0.001, 1e6), help="Generated images a second.")
@click.option("--profile", default="lite", show_default=True, type=click.Choice(list(PROFILES)), help="Of the models.")
@click.option("--dim", type=click.IntRange(8, 65_536), help="Dimensions of a recall vector; default: the profile's.")
@click.option("--perceptual-dim", type=click.IntRange(8, 65_536), help="Of a perceptual one; default: the profile's.")
@click.option("--views", type=click.IntRange(1, 1_000), help="Perceptual vectors a work; default: the profile's.")
@click.option("--quantisation", default=DEFAULT, show_default=True, type=click.Choice(CHOICES), help="Of recall.")
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(1, 10), help="Copies of the index.")
@click.option("--node-ram", default=_NODE.ram_gib, show_default=True, type=click.FloatRange(1), help="GiB of a node.")
@click.option("--node-disk", default=_NODE.disk_gib, show_default=True, type=click.FloatRange(1), help="GiB of a node.")
@click.option("--node-cores", default=_NODE.cores, show_default=True, type=click.IntRange(1), help="Cores of a node.")
@click.option(
    "--node-iops", default=_NODE.iops, show_default=True, type=click.FloatRange(1), help="Its random reads/s."
)
@click.option("--gpu", default="l4", show_default=True, type=click.Choice([NO_GPU, *GPUS]), help="For the models.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]), help="Of them.")
@click.option("--gpu-images-per-s", default=0.0, type=click.FloatRange(0), help="Works/s one GPU was seen to embed.")
@click.option("--hours", default=24.0, show_default=True, type=click.FloatRange(0.1), help="To make the index in.")
@click.option("--cache-share", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Of recall, in RAM.")
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
    """Reckon nodes, memory, disk and GPU-hours for so many works and so much load, from measured figures.

    What was measured, what is arithmetic and what is assumed is told apart; docs/explanation/scale.md has the formulae.

    Example: gmvaluator plan --images 100000000 --qps 50 --gpu l4
    """
    own = PROFILES[profile]
    vectors = replace(
        own,
        recall_dim=dim or own.recall_dim,
        perceptual_dim=perceptual_dim or own.perceptual_dim,
        views=views or own.views,
    )
    node = Node(node_ram, node_disk, node_cores, node_iops)
    wanted = Wanted(images, qps, profile, vectors, quantisation, replicas, node, gpu, precision, gpu_images_per_s,
                    hours, cache_share)  # fmt: skip
    found = make_plan(wanted, shipped())
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _print(found)


def _print(found: Plan) -> None:
    wanted, figures = found.wanted, found.figures
    vectors = wanted.vectors
    click.echo(
        f"{wanted.images:,} works, {wanted.qps:g} images a second, profile {wanted.profile}: a vector of "
        f"{vectors.recall_dim} in {wanted.quantisation}, {vectors.views} of {vectors.perceptual_dim}, "
        f"{wanted.replicas} copies"
    )
    for name, value in figures.items():
        click.echo(f"  {name:<28}{value:>18,.{0 if value >= 100 or value == int(value) else 2}f}")
    alone = ", ".join(f"{name} {count:,}" for name, count in found.nodes_by.items())
    click.echo(f"nodes that each alone would need: {alone}")
    for title, lines in (("What drives the cost", found.as_dict()["cost_drivers"]), ("Assumed", found.assumptions())):
        click.echo(f"{title}:")
        for line in lines:
            click.echo(f"  - {line}")
