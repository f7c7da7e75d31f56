"""`gmvaluator generators add|list|remove`."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from gmvaluator.commands.options import collection_option, index_option, json_option, place_option
from gmvaluator.errors import InvalidInput, InvalidPolicy
from gmvaluator.ports import Generator
from gmvaluator.storage.data_folder import index_location, require_index
from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from gmvaluator.profile import ProfileIdentity


@click.group()
def generators() -> None:
    """Register the image generators whose images are attributed.

    Example: gmvaluator generators list
    """


@generators.command()
@click.argument("model_version")
@click.option(
    "--data-set", "data_sets", multiple=True, required=True, help="Data set that it was trained on; may be repeated."
)
@click.option(
    "--policy",
    envvar="GMV_POLICY",
    help="Policy that values its images, NAME@N; default: the one that it has, or the shipped policy that was "
    "calibrated for the index's profile. Only profile lite has one.",
)
@click.option("--replace", is_flag=True, help="Overwrite a registration that differs.")
@collection_option
@index_option
@place_option
@json_option
def add(
    model_version: str,
    data_sets: tuple[str, ...],
    policy: str | None,
    replace: bool,
    collection: str,
    index_url: str,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Register the generator MODEL_VERSION; only works of its data sets are credited for its images.

    Example: gmvaluator generators add demo-1 --data-set openclipart
    """
    from gmvaluator.catalogue.store import open_catalogue

    if policy is None:
        with open_catalogue(place) as existing:
            registered = {generator.model_version: generator for generator in existing.generators()}
        known = registered.get(model_version)
        policy = known.policy if known else _calibrated_policy(place, index_url, collection)
    generator = Generator(model_version, collection, tuple(dict.fromkeys(data_sets)), policy)
    with open_catalogue(place, write=True, create=False) as catalogue:
        catalogue.add_generator(generator, replace)
    click.echo(json.dumps(asdict(generator)) if as_json else _line(generator, place))


@generators.command("list")
@place_option
@json_option
def list_(place: DataLocation, as_json: bool) -> None:
    """List the registered generators.

    Example: gmvaluator generators list --json
    """
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place) as catalogue:
        registered = catalogue.generators()
    if as_json:
        click.echo(json.dumps({"generators": [asdict(generator) for generator in registered]}))
        return
    for generator in registered:
        click.echo(_line(generator, place))
    if not registered:
        click.echo("no generator is registered: add one by `gmvaluator generators add MODEL_VERSION --data-set NAME`")


def _calibrated_policy(place: DataLocation, index_url: str, collection: str) -> str:
    """Return the shipped policy that was calibrated for the profile of a collection.

    Raises InvalidInput if there is none, MissingIndex if the collection does not exist.
    """
    from gmvaluator.valuation.policy import shipped_policy

    location = index_location(place.folder, index_url)
    require_index(location)
    profile = _profile_of(location, collection)
    policy = shipped_policy(profile.hash)
    if policy is None:
        raise InvalidInput(
            f"no shipped policy was calibrated for profile {profile.name!r}, which built collection {collection!r}: "
            "name one by --policy, such as one that `gmvaluator calibrate` has fitted; paper@1 credits the nearest "
            "works in full, even if none resembles the image"
        )
    return policy


def _profile_of(location: str | Path, collection: str) -> ProfileIdentity:
    from gmvaluator.auth.secret_files import qdrant_api_key
    from gmvaluator.index.opening import open_store

    with closing(open_store(location, collection, api_key=qdrant_api_key())) as store:
        return store.metadata().profile


@generators.command()
@click.argument("model_version")
@place_option
@json_option
def remove(model_version: str, place: DataLocation, as_json: bool) -> None:
    """Remove the generator MODEL_VERSION: its images are refused from now on; what was posted stays in the ledger.

    Example: gmvaluator generators remove demo-1
    """
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place, write=True, create=False) as catalogue:
        catalogue.generator(model_version)
        catalogue.remove_generator(model_version)
    click.echo(json.dumps({"removed": model_version}) if as_json else f"removed {model_version}")


def _line(generator: Generator, place: DataLocation) -> str:
    return (
        f"{generator.model_version}: trained on {', '.join(generator.data_sets)}; "
        f"valued by {generator.policy}{_remark(generator.policy, place)}; collection {generator.collection}"
    )


def _remark(reference: str, place: DataLocation) -> str:
    """Return what an operator has to know of a policy."""
    from gmvaluator.catalogue.store import POLICY_FOLDER
    from gmvaluator.valuation.policy import load_policy

    try:
        policy = load_policy(reference, place.folder / POLICY_FOLDER)
    except InvalidPolicy as error:
        return f" (which cannot be used: {error})"
    return "" if policy.residual else " (which leaves nothing unattributed)"
