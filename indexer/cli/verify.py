"""`gmvaluator index verify`, and what `index add` does of it at its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click

from gmvaluator.commands.options import collection_option, data_option, index_option, json_option
from gmvaluator.errors import InvalidInput, MissingData
from gmvaluator.index.schema import GROWTH_LIMIT, RECALL_FLOOR, RECALL_TARGET, outgrown
from gmvaluator.ports import CollectionInfo, Float32Array
from gmvaluator.report import report
from indexer.target import Target

MAX_HELD_OUT = 10_000
SAMPLED = 200


@click.command()
@click.option("--queries", default=SAMPLED, show_default=True, type=click.IntRange(10, 10_000), help="Sampled queries.")
@click.option(
    "--held-out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .npy of recall embeddings (Q, D) that are not in the index, asked as well.",
)
@click.option("--k", default=50, show_default=True, type=click.IntRange(1, 1000), help="Neighbours compared.")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the sample.")
@click.option(
    "--target",
    default=RECALL_TARGET,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Recall that the search settings are chosen to reach.",
)
@click.option(
    "--floor", default=RECALL_FLOOR, show_default=True, type=click.FloatRange(0, 1), help="Below it, exit with 1."
)
@data_option
@index_option
@collection_option
@json_option
def verify(
    queries: int,
    held_out: Path | None,
    k: int,
    seed: int,
    target: float,
    floor: float,
    data: Path,
    index_url: str,
    collection: str,
    as_json: bool,
) -> None:
    """Measure what share of the true nearest neighbours the compressed index finds.

    The cheapest search settings that reach the target are kept in the collection, and the attributor uses them. Exits
    with 1 if recall is below the floor, or if a point is not quantised.

    Example: gmvaluator index verify --json
    """
    given = [] if held_out is None else read_queries(held_out)
    figures = measured(Target(data, index_url, collection), queries, given, k, seed, target)
    if as_json:
        more = f" --held-out {held_out}" if held_out else ""
        command = f"gmvaluator index verify --queries {queries}{more} --k {k} --seed {seed} --target {target} --json"
        click.echo(json.dumps(report(figures, command), indent=2))
    else:
        for name, value in figures.items():
            click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if not trusted(figures, k, floor):
        sys.exit(1)


def measured(
    target: Target, queries: int, held_out: list[Float32Array], k: int, seed: int, wanted: float
) -> dict[str, Any]:
    """Figures of `gmvaluator.index.verify`."""
    from gmvaluator.index.verify import verify as measure

    with target.open_existing():
        return measure(
            target.location,
            target.collection,
            held_out,
            api_key=target.api_key,
            k=k,
            sample=queries,
            seed=seed,
            target=wanted,
        )


def trusted(figures: dict[str, Any], k: int, floor: float) -> bool:
    """Say what is wrong, if anything is."""
    recall, growth = figures[f"recall_at_{k}"], figures["growth_since_verified"]
    if growth is not None and growth >= GROWTH_LIMIT:
        click.echo(f"the collection had grown by {growth:.0%} since it was verified last", err=True)
    if not figures["target_reached"]:
        click.echo(f"no search settings reach {figures['recall_target']}: rebuild it with a finer --quantisation or a "
                   "larger --hnsw-m (gmvaluator index rebuild)", err=True)  # fmt: skip
    if figures["quantised_share"] < 1:
        click.echo("some points are not quantised: run `gmvaluator index add` again to build the index", err=True)
    if recall < floor:
        click.echo(f"recall at {k} is {recall:.4f}, below the floor of {floor}", err=True)
    return bool(figures["quantised_share"] == 1 and recall >= floor)


def read_queries(file: Path) -> list[Float32Array]:
    """Rows of a .npy. Raises MissingData, InvalidInput."""
    try:
        rows = np.load(file, allow_pickle=False, mmap_mode="r")
    except OSError as error:
        raise MissingData(f"the held-out queries {file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidInput(f"{file} is no .npy of numbers: {error}") from error
    if rows.ndim != 2 or not 1 <= len(rows) <= MAX_HELD_OUT or rows.dtype.kind != "f":
        raise InvalidInput(f"{file} has shape {rows.shape} of {rows.dtype}: give floats (Q, D), Q to {MAX_HELD_OUT:,}")
    return [row.astype(np.float32) for row in rows]


def verify_if_outgrown(target: Target, info: CollectionInfo) -> bool:
    """As `index add` ends: what was measured of a much smaller collection is measured again, for the target that was
    asked for then. False if its recall is not to be trusted now."""
    if not outgrown(info):
        return True
    click.echo("the collection has grown since it was verified: measuring its recall again", err=True)
    before = info.metadata["measured"]
    wanted = float(before.get("recall_target", RECALL_TARGET))
    figures = measured(target, SAMPLED, [], int(before.get("k", 50)), 0, wanted)
    return trusted(figures, figures["k"], RECALL_FLOOR)
