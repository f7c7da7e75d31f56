"""The commands `gmvaluator index remove` and `gmvaluator index restore`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import rich_click as click

from gmvaluator.catalogue.removal import Selected
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.catalogue.tombstones import Restorable
from gmvaluator.commands.options import index_option, json_option, place_option
from gmvaluator.errors import NotFound
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation
from indexer.cli.selecting import (
    SHOWN,
    NamedWorks,
    naming_options,
    refuse_ambiguous,
    report_unmatched,
    unmatched_as_dict,
)
from indexer.name_list import Unmatched
from indexer.removal import Purged, Removed, Remover, purge, without_removed
from indexer.target import Target

_STRICT = click.option("--strict", is_flag=True, help="Exit with 1 if an entry names nothing.")


@click.command()
@naming_options
@click.option("--reason", default="removed", show_default=True, help="Stored with tombstones: no name, no title.")
@click.option("--purge", "purging", is_flag=True, help="Then erase every byte of all works that were ever removed.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_STRICT
@place_option
@index_option
@json_option
def remove(
    named: NamedWorks,
    reason: str,
    purging: bool,
    dry_run: bool,
    yes: bool,
    strict: bool,
    place: DataLocation,
    index_url: str,
    as_json: bool,
) -> None:
    """Remove works from every collection, by key, URL, SHA-256 or owner; no later run of any source brings them back.

    At once they are no longer found, and no longer paid. What was named stays out: by SHA-256 that image, by key or
    URL also any other image of that record or at that URL. A key that several works have is refused. Past payments
    stay in the ledger, and past claims of owners stay in the catalogue. --purge rebuilds every collection from the
    works that are left and swaps it in; alone, it does so for works removed before, or completes a removal or purge
    that was interrupted.

    Example: gmvaluator index remove --key cats/007.png --data-set pictures --dry-run
    """
    target = Target(place.folder, index_url, "", database_url=place.database_url)
    if purging and not named and not dry_run:
        with open_catalogue(place, write=True) as writable:
            _print_purged(_purge(writable, target), as_json)
        return
    # Read only: the catalogue is locked for writing after the confirmation, which may take its time.
    with open_catalogue(place) as catalogue:
        selected = catalogue.removals(named.selection(catalogue))
    refuse_ambiguous(dict(selected.ambiguous))
    unmatched = report_unmatched(
        named.unmatched([*selected.unmatched, *selected.unknown], selected.without_works),
        target.data / "left-out" / "remove.unmatched.txt",
    )
    if not selected.works:
        raise NotFound("no work is meant by what was named: give other keys, URLs, SHA-256s or owners")
    if not as_json or not yes:
        # With --json stdout is data alone.
        click.echo(_summary(selected), err=as_json)
    if dry_run:
        _print(selected, unmatched, None, as_json)
    else:
        if not yes:
            click.confirm(f"Remove {len(selected.works):,} works permanently?", abort=True, err=True)
        with open_catalogue(place, write=True) as writable:
            removed = _remover(writable, target).run(selected.works, reason)
            purged = _purge(writable, target) if purging else None
        _print(selected, unmatched, removed, as_json, purged)
    if strict and unmatched is not None:
        sys.exit(1)


@click.command()
@naming_options
@click.option("--dry-run", is_flag=True, help="Only show what would be restored.")
@_STRICT
@place_option
@json_option
def restore(named: NamedWorks, dry_run: bool, strict: bool, place: DataLocation, as_json: bool) -> None:
    """Take back the removal of works, so that the next `index add` of their source indexes them again.

    A work is named as it was for `index remove`: by its SHA-256, by its owner, or by the key or URL by which it was
    removed.

    Example: gmvaluator index restore --key cats/007.png --data-set pictures
    """
    with open_catalogue(place) as catalogue:
        tombs = catalogue.restorable(named.selection(catalogue))
    refuse_ambiguous(tombs.ambiguous)
    unmatched = report_unmatched(
        named.unmatched(tombs.unmatched, tombs.without_tombstones),
        place.folder / "left-out" / "restore.unmatched.txt",
    )
    if not (tombs.sha256s or tombs.keys):
        raise NotFound("nothing that is named was removed: give the SHA-256, or the key or URL that was removed")
    if not dry_run:
        with open_catalogue(place, write=True) as writable:
            writable.take_back(tombs)
    _print_restored(tombs, unmatched, dry_run, as_json)
    if strict and unmatched is not None:
        sys.exit(1)


def _remover(catalogue: Catalogue, target: Target) -> Remover:
    """Return a remover for every collection of the target."""
    return Remover(catalogue, target.open_named, target.collections(), thumbnails_folder(target.data))


def _purge(catalogue: Catalogue, target: Target) -> Purged:
    """Rebuild every collection without removed works, and print its name."""

    def rebuild(name: str) -> None:
        click.echo(f"rebuilding collection {name!r}", err=True)
        target.rebuild(name, without_removed(catalogue))

    return purge(_remover(catalogue, target), rebuild)


def _print_purged(purged: Purged, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"purged": asdict(purged)}))
        return
    log = "" if purged.log_emptied else "; a reader kept the catalogue's log, which the next writer empties"
    click.echo(f"nothing is left of {purged.works:,} works; {len(purged.collections)} collections were rebuilt{log}")


def _print_restored(tombs: Restorable, unmatched: Unmatched | None, dry_run: bool, as_json: bool) -> None:
    if as_json:
        restored = {"works": len(tombs.sha256s), "keys": len(tombs.keys), "dry_run": dry_run}
        click.echo(json.dumps({**restored, **unmatched_as_dict(unmatched)}))
        return
    for sha256 in tombs.sha256s[:SHOWN]:
        click.echo(f"{'would restore' if dry_run else 'restored'} {sha256}")
    if tombs.keys:
        click.echo(
            f"{len(tombs.keys):,} keys were removed by an older version, which noted no images with them: images that "
            "were removed under them stay out until they are restored by --sha256"
        )
    if not dry_run:
        click.echo(f"{len(tombs.sha256s):,} works may come back: run `gmvaluator index add` for their source")


def _summary(selected: Selected) -> str:
    parts = [f"works meant: {len(selected.works):,}"]
    if selected.removed_before:
        parts.append(f"removed before: {selected.removed_before:,}")
    if selected.unknown:
        parts.append(f"not indexed, and kept out in advance: {len(selected.unknown):,}")
    if selected.shared:
        parts.append(f"claimed by others too: {selected.shared:,}")
    return "; ".join(parts)


def _print(
    selected: Selected,
    unmatched: Unmatched | None,
    removed: Removed | None,
    as_json: bool,
    purged: Purged | None = None,
) -> None:
    if as_json:
        purged_as_dict = None if purged is None else asdict(purged)
        click.echo(json.dumps({**_as_dict(selected, unmatched, removed), "purged": purged_as_dict}))
        return
    if removed is None:
        for work in selected.works[:SHOWN]:
            click.echo(f"would remove {work.sha256} {', '.join(record.key for record in work.records)}".rstrip())
        return
    click.echo(
        f"{removed.works:,} works removed: {removed.points:,} points, {removed.thumbnails:,} thumbnails, "
        f"{removed.places:,} places in the catalogue"
    )
    if purged is not None:
        _print_purged(purged, as_json)


def _as_dict(selected: Selected, unmatched: Unmatched | None, removed: Removed | None) -> dict[str, Any]:
    return {
        "works": len(selected.works),
        "removed_before": selected.removed_before,
        "shared": selected.shared,
        **unmatched_as_dict(unmatched),
        "removed": None if removed is None else asdict(removed),
    }
