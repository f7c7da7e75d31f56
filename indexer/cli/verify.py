"""The command `gmvaluator index verify`, and the verification at the end of `index add`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rich_click as click

from gmvaluator.commands.options import collection_option, data_option, index_option, json_option
from gmvaluator.commands.parameters import FILE, FiniteRange
from gmvaluator.errors import IndexFailed, InvalidInput, MissingData
from gmvaluator.index.schema import GROWTH_LIMIT, KEY_DATA_SET, RECALL_FLOOR, RECALL_TARGET, outgrown
from gmvaluator.ports import CollectionInfo, Float32Array
from gmvaluator.report import report
from indexer.target import Target

if TYPE_CHECKING:
    from gmvaluator.index.deep_check import DeepCheck

MAX_HELD_OUT = 10_000
"""Maximum number of queries in a file of held-out embeddings."""

MAX_NAMED = 100
"""Damaged works that are named."""

SAMPLED = 200
"""Default number of points of the collection that serve as queries."""


def _read_filters(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Return the names of the data sets, each once. Raises InvalidInput."""
    names = []
    for value in values:
        key, _, name = value.partition("=")
        if key.strip() != KEY_DATA_SET or not name.strip():
            raise InvalidInput(f"--where {value[:100]!r} is no filter: give {KEY_DATA_SET}=NAME")
        names.append(name.strip())
    return list(dict.fromkeys(names))


@click.command()
@click.option("--queries", default=SAMPLED, show_default=True, type=click.IntRange(10, 10_000), help="Sampled queries.")
@click.option(
    "--held-out",
    type=FILE,
    help="A .npy of recall embeddings (Q, D) that are not in the index, as further queries.",
)
@click.option("--k", default=50, show_default=True, type=click.IntRange(1, 1000), help="Neighbours compared.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**63 - 1), show_default=True, help="Seed of the sample.")
@click.option(
    "--target",
    default=RECALL_TARGET,
    show_default=True,
    type=FiniteRange(0, 1, min_open=True),
    help="Recall that the search settings are chosen to reach.",
)
@click.option("--floor", default=RECALL_FLOOR, show_default=True, type=FiniteRange(0, 1), help="Below it, exit with 1.")
@click.option(
    "--where",
    "filters",
    multiple=True,
    metavar="data_set=NAME",
    callback=_read_filters,
    help="Also measure searches of this data set alone, as for a generator trained on it; repeat it for several.",
)
@click.option(
    "--deep",
    is_flag=True,
    help="Also compare all stored vectors and local features with their checksums; reads the whole collection.",
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
    filters: list[str],
    deep: bool,
    data: Path,
    index_url: str,
    collection: str,
    as_json: bool,
) -> None:
    """Measure the share of the true nearest neighbours that the compressed index finds.

    The cheapest search settings that reach the target are stored in the collection, and the attributor uses them. Exits
    with 1 if recall is below the floor, if a point is not quantised, or if stored vectors are damaged.

    Example: gmvaluator index verify --json
    """
    vectors = [] if held_out is None else read_queries(held_out)
    place = Target(data, index_url, collection)
    if deep:
        checked = check_deeply(place)
    figures = measure(place, queries, vectors, k, seed, target, filters) | (checked.figures() if deep else {})
    if as_json:
        more = f" --held-out {held_out}" if held_out else ""
        more += "".join(f" --where {KEY_DATA_SET}={name}" for name in filters) + (" --deep" if deep else "")
        command = f"gmvaluator index verify --queries {queries}{more} --k {k} --seed {seed} --target {target} --json"
        click.echo(json.dumps(report(figures, command), indent=2))
    else:
        for name, value in figures.items():
            click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if not trusted(figures, k, floor):
        sys.exit(1)


def check_deeply(target: Target) -> DeepCheck:
    """Check the stored vectors of every work; name the damaged ones, and raise IndexFailed if there are any."""
    from gmvaluator.index.deep_check import check_works

    with target.open_existing():
        checked = check_works(target.location, target.collection, api_key=target.api_key)
    for work, reason in list(checked.damaged.items())[:MAX_NAMED]:
        click.echo(f"work {work}: {reason}", err=True)
    # Before recall is measured, which a small collection does not allow.
    click.echo(f"{checked.works:,} works were read, {len(checked.damaged):,} are damaged", err=True)
    if checked.damaged:
        raise IndexFailed(
            f"the stored vectors or local features of {len(checked.damaged):,} of {checked.works:,} works are damaged: "
            "restore the index from a backup, or index the images again into another --collection"
        )
    if checked.undescribed:
        click.echo(f"{checked.undescribed:,} works have no local features, so they are never found to be a "
                   "part of an image: index the images again into another --collection", err=True)  # fmt: skip
    return checked


def measure(
    target: Target,
    queries: int,
    held_out: list[Float32Array],
    k: int,
    seed: int,
    recall_target: float,
    data_sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the figures of `gmvaluator.index.verify.verify`, which also stores the search settings."""
    from gmvaluator.index.verify import verify as verify_collection

    with target.open_existing():
        return verify_collection(
            target.location,
            target.collection,
            held_out,
            api_key=target.api_key,
            k=k,
            sample=queries,
            seed=seed,
            target=recall_target,
            data_sets=data_sets,
        )


def trusted(figures: dict[str, Any], k: int, floor: float) -> bool:
    """Return whether the collection passes; print what is wrong with it."""
    recall, growth = figures[f"recall_at_{k}"], figures["growth_since_verified"]
    if growth is not None and growth >= GROWTH_LIMIT:
        click.echo(f"the collection had grown by {growth:.0%} since it was verified last", err=True)
    if not figures["target_reached"]:
        click.echo(f"no search settings reach {figures['recall_target']}: rebuild it with a finer --quantisation or a "
                   "larger --hnsw-m (gmvaluator index rebuild)", err=True)  # fmt: skip
    if figures["quantised_share"] < 1:
        click.echo("some points are not quantised: run `gmvaluator index add` again to build the index", err=True)
    if figures["sampled_without_checksum"]:
        click.echo("works that an earlier release indexed have no checksum of their vectors, so damage to them may not "
                   "be found: index the images again into another --collection to have one", err=True)  # fmt: skip
    recalls = {"": recall, " under the filter": figures.get(f"recall_at_{k}_filtered", recall)}
    for where, value in recalls.items():
        if value < floor:
            click.echo(f"recall at {k}{where} is {value:.4f}, below the floor of {floor}", err=True)
    return bool(figures["quantised_share"] == 1 and min(recalls.values()) >= floor)


def read_queries(file: Path) -> list[Float32Array]:
    """Return the rows of a .npy as float32. Raises MissingData, InvalidInput."""
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
    """Verify a collection again if it has grown much since, with the target of the last verification.

    Return False if its recall is below the floor now.
    """
    if not outgrown(info):
        return True
    click.echo("the collection has grown since it was verified: measuring its recall again", err=True)
    before = info.metadata["measured"]
    recall_target = float(before.get("recall_target", RECALL_TARGET))
    data_sets = before.get("data_sets", [])
    figures = measure(target, SAMPLED, [], int(before.get("k", 50)), 0, recall_target, data_sets)
    return trusted(figures, figures["k"], RECALL_FLOOR)
