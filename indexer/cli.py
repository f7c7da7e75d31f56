"""`gmvaluator index`: add, export, group, info, rebuild, remove, verify."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import rich_click as click

from gmvaluator.index.schema import CollectionMetadata, IndexSettings
from gmvaluator.options import collection_option, data_option, index_option, json_option
from gmvaluator.report import report
from indexer.adding import add, collection_dict
from indexer.exporting import export
from indexer.group_cli import group
from indexer.rebuild_cli import rebuild
from indexer.remove_cli import remove
from indexer.target import Target


@click.group()
def index() -> None:
    """Build and check the index of training images.

    Example: gmvaluator index add examples/openclipart
    """


index.add_command(add)
index.add_command(export)
index.add_command(group)
index.add_command(rebuild)
index.add_command(remove)


@index.command()
@data_option
@index_option
@collection_option
@json_option
def info(data: Path, index_url: str, collection: str, as_json: bool) -> None:
    """Say what the index holds, and by which profile it was built.

    Example: gmvaluator index info --json
    """
    with Target(data, index_url, collection).open_existing() as store:
        found = store.info()
    if as_json:
        click.echo(json.dumps(collection_dict(found)))
        return
    profile = found.metadata.get("profile", {})
    click.echo(f"collection {found.name}: {found.points:,} points, {found.indexed_points:,} quantised")
    click.echo(f"profile {profile.get('name')}: recall {profile.get('recall_dim')} dimensions, "
               f"perceptual {profile.get('perceptual_dim')}")  # fmt: skip
    metadata = CollectionMetadata.from_dict(found.name, found.metadata)
    click.echo(f"kept by: {metadata.quantisation}, " + _kept_by(metadata.settings))
    click.echo(f"ready: {'yes' if found.ready else 'no, it is being built'}")


def _kept_by(settings: IndexSettings) -> str:
    said = [f"{name} {value}" for name, value in asdict(settings).items() if value is not None]
    return ", ".join(said)


@index.command()
@click.option("--queries", default=200, show_default=True, type=click.IntRange(10, 10_000), help="Sampled queries.")
@click.option("--k", default=50, show_default=True, type=click.IntRange(1, 1000), help="Neighbours compared.")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the sample.")
@data_option
@index_option
@collection_option
@json_option
def verify(queries: int, k: int, seed: int, data: Path, index_url: str, collection: str, as_json: bool) -> None:
    """Measure what share of the true nearest neighbours the compressed index finds; exits 1 if a point is unquantised.

    The search settings that reach the target are kept in the collection, and the attributor uses them.

    Example: gmvaluator index verify --json
    """
    from gmvaluator.index.verify import verify as measure

    target = Target(data, index_url, collection)
    with target.open_existing():
        figures = measure(target.location, collection, api_key=target.api_key, k=k, sample=queries, seed=seed)
    if as_json:
        command = f"gmvaluator index verify --queries {queries} --k {k} --seed {seed} --json"
        click.echo(json.dumps(report(figures, command), indent=2))
    else:
        for name, value in figures.items():
            click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if figures["quantised_share"] < 1:
        click.echo("some points are not quantised: run `gmvaluator index add` again to build the index", err=True)
        sys.exit(1)
