"""`gmvaluator works list|show` and `gmvaluator data-sets list`."""

from __future__ import annotations

import json
from typing import Any

import rich_click as click

from gmvaluator.commands.options import json_option, limit_option, place_option
from gmvaluator.commands.owners import owner_argument
from gmvaluator.storage.database import DataLocation


@click.group()
def works() -> None:
    """List the works in the catalogue, and show one.

    Example: gmvaluator works list --owner ada
    """


@works.command("list")
@click.option("--data-set", help="Only works of this data set.")
@click.option("--owner", help="Only works that this owner claims: a UUID, a manifest's owner_id or a name.")
@limit_option
@place_option
@json_option
def list_(data_set: str | None, owner: str | None, limit: int, place: DataLocation, as_json: bool) -> None:
    """List works in the order in which they were indexed, with their owners.

    Example: gmvaluator works list --data-set paintings --limit 20
    """
    from gmvaluator.catalogue.listing import list_works
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place) as catalogue:
        owner_id = None if owner is None else owner_argument(owner, place)
        listed = list_works(catalogue, data_set, owner_id, limit)
    if as_json:
        click.echo(json.dumps({"works": listed}))
        return
    for work in listed:
        click.echo(_line(work))
    if not listed:
        click.echo("no work is recorded here: index some by `gmvaluator index add SOURCE`")


@works.command()
@click.argument("work")
@click.option("--data-set", help="Data set of the key, if several use the key.")
@place_option
@json_option
def show(work: str, data_set: str | None, place: DataLocation, as_json: bool) -> None:
    """Show WORK (an id, a SHA-256, the beginning of one, a key or a file): its places, size and owners.

    Example: gmvaluator works show animals/dove
    """
    from gmvaluator.catalogue.listing import describe_works
    from gmvaluator.catalogue.search import find_work
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.text import printable

    with open_catalogue(place) as catalogue:
        (shown,) = describe_works(catalogue, [find_work(catalogue, work, data_set)])
    if as_json:
        click.echo(json.dumps(shown))
        return
    click.echo(_line(shown))
    click.echo(f"sha256 {shown['sha256']}, {shown['width']}x{shown['height']}, indexed {shown['added_at']}")
    for source in shown["sources"]:
        texts = (source["data_set"], source["key"], source["title"], source["license"], source["uri"], source["url"])
        click.echo("  " + printable("; ".join(filter(None, texts))))
    for owner in shown["owners"]:
        click.echo(f"  claimed by {printable(owner['display_name'])} {owner['owner_id']}")


def _line(work: dict[str, Any]) -> str:
    from gmvaluator.text import printable

    source = work["sources"][0] if work["sources"] else {"key": "", "title": ""}
    names = ", ".join(owner["display_name"] for owner in work["owners"]) or "no owner"
    removed = "  (removed)" if work["removed"] else ""
    return f"{work['training_image_id']}  {printable(source['key'] or source['title'])}  {printable(names)}{removed}"


@click.group("data-sets")
def data_sets() -> None:
    """List the data sets that works were indexed into.

    Example: gmvaluator data-sets list
    """


@data_sets.command("list")
@place_option
@json_option
def list_data_sets_(place: DataLocation, as_json: bool) -> None:
    """List the data sets, the works in each, and the generators trained on it.

    Example: gmvaluator data-sets list --json
    """
    from gmvaluator.catalogue.listing import list_data_sets
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place) as catalogue:
        listed = list_data_sets(catalogue)
    if as_json:
        click.echo(json.dumps({"data_sets": listed}))
        return
    for data_set in listed:
        trained = ", ".join(data_set["generators"]) or "no generator"
        click.echo(f"{data_set['name']}: {data_set['works']:,} works, added {data_set['added_at']}; {trained}")
    if not listed:
        click.echo("there is no data set: index one by `gmvaluator index add SOURCE --data-set NAME`")
