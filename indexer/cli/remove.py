"""The command `gmvaluator index remove`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.catalogue.erasure import find_owner
from gmvaluator.catalogue.records import check_data_set
from gmvaluator.catalogue.removal import Selected, Selection
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.commands.options import index_option, json_option, place_option
from gmvaluator.errors import InvalidInput, MissingData, NotFound
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation
from indexer.removal import Purged, Removed, Remover, purge, without_removed
from indexer.target import Target

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_OWNER = "owner:"
_MAX_LINE = 10_000
"""Maximum length of one line of a list, in characters."""

_SHOWN = 20
"""Maximum number of works that the command prints."""


@click.command()
@click.option("--key", "keys", multiple=True, help="Works with this key; may be repeated.")
@click.option("--sha256", "sha256s", multiple=True, help="The work whose file has this SHA-256; may be repeated.")
@click.option("--owner", "owners", multiple=True, help="Works that an owner (UUID or manifest id) has a claim on.")
@click.option(
    "--from",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with one entry per line: a SHA-256, owner:ID, or else a key.",
)
@click.option("--data-set", help="Data set of the keys; default: every data set.")
@click.option("--reason", default="removed", show_default=True, help="Stored with tombstones: no name, no title.")
@click.option("--purge", "purging", is_flag=True, help="Then erase every byte of all works that were ever removed.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_option
@index_option
@json_option
def remove(
    keys: tuple[str, ...],
    sha256s: tuple[str, ...],
    owners: tuple[str, ...],
    file: Path | None,
    data_set: str | None,
    reason: str,
    purging: bool,
    dry_run: bool,
    yes: bool,
    place: DataLocation,
    index_url: str,
    as_json: bool,
) -> None:
    """Remove works from every collection, by key, SHA-256 or owner; no later run of any source brings them back.

    At once they are no longer found, and no longer paid. Past payments stay in the ledger, and past claims of owners
    stay in the catalogue. --purge rebuilds every collection from the works that are left and swaps it in; alone, it
    does so for works removed before, or completes a removal or purge that was interrupted.

    Example: gmvaluator index remove --key cats/007.png --data-set pictures --dry-run
    """
    target = Target(place.folder, index_url, "", database_url=place.database_url)
    if purging and not (keys or sha256s or owners or file) and not dry_run:
        with open_catalogue(place, write=True) as writable:
            _print_purged(_purge(writable, target), as_json)
        return
    listed = [*(f"{_OWNER}{owner}" for owner in owners), *(_lines(file) if file is not None else ())]
    # Read only: the catalogue is locked for writing after the confirmation, which may take its time.
    with open_catalogue(place) as catalogue:
        selected = catalogue.removals(_selection(catalogue, keys, sha256s, listed, data_set))
    if not selected.works:
        raise NotFound(f"no work is meant by {', '.join(selected.unmatched[:_SHOWN]) or 'nothing'}: name other works")
    if not as_json or not yes:
        # With --json stdout is data alone.
        click.echo(_summary(selected), err=as_json)
    if dry_run:
        _print(selected, None, as_json)
        return
    if not yes:
        click.confirm(f"Remove {len(selected.works):,} works permanently?", abort=True, err=True)
    with open_catalogue(place, write=True) as writable:
        removed = _remover(writable, target).run(selected.works, reason)
        purged = _purge(writable, target) if purging else None
    _print(selected, removed, as_json, purged)


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


def _selection(
    catalogue: Catalogue, keys: Sequence[str], sha256s: Sequence[str], listed: Sequence[str], data_set: str | None
) -> Selection:
    """Return what the options and lists select. Raises InvalidInput, NotFound for an unknown owner."""
    invalid = [text for text in sha256s if not _SHA256.fullmatch(text)]
    if invalid:
        raise InvalidInput(f"{invalid[0][:80]!r} is no SHA-256: give 64 hexadecimal digits")
    named = [text for text in listed if not _SHA256.fullmatch(text)]
    selection = Selection(
        frozenset(text.lower() for text in [*sha256s, *listed] if _SHA256.fullmatch(text)),
        frozenset([*keys, *(text for text in named if not text.startswith(_OWNER))]),
        frozenset(find_owner(catalogue, text.removeprefix(_OWNER)) for text in named if text.startswith(_OWNER)),
        check_data_set(data_set) if data_set is not None else None,
    )
    if not (selection.sha256s or selection.keys or selection.owners):
        raise InvalidInput("nothing is named: give --key, --sha256, --owner or --from FILE")
    return selection


def _lines(file: Path) -> list[str]:
    """Return the entries of a list. Raises MissingData, InvalidInput."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingData(f"the list {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the list {file} is not UTF-8: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    if any(len(line) > _MAX_LINE for line in lines):
        raise InvalidInput(f"the list {file} has a line of over {_MAX_LINE:,} characters")
    return [line for line in lines if line and not line.startswith("#")]


def _summary(selected: Selected) -> str:
    parts = [f"{len(selected.works):,} works are meant"]
    if selected.removed_before:
        parts.append(f"{selected.removed_before:,} were removed before")
    if selected.shared:
        parts.append(f"{selected.shared:,} are claimed by others too")
    if selected.unmatched:
        parts.append(f"nothing is known of {', '.join(selected.unmatched[:_SHOWN])}")
    return "; ".join(parts)


def _print(selected: Selected, removed: Removed | None, as_json: bool, purged: Purged | None = None) -> None:
    if as_json:
        click.echo(json.dumps({**_as_dict(selected, removed), "purged": None if purged is None else asdict(purged)}))
        return
    if removed is None:
        for work in selected.works[:_SHOWN]:
            click.echo(f"would remove {work.sha256} {', '.join(key for _, key in work.places)}".rstrip())
        return
    click.echo(
        f"{removed.works:,} works removed: {removed.points:,} points, {removed.thumbnails:,} thumbnails, "
        f"{removed.places:,} places in the catalogue"
    )
    if purged is not None:
        _print_purged(purged, as_json)


def _as_dict(selected: Selected, removed: Removed | None) -> dict[str, Any]:
    return {
        "works": len(selected.works),
        "removed_before": selected.removed_before,
        "shared": selected.shared,
        "unmatched": list(selected.unmatched),
        "removed": None if removed is None else asdict(removed),
    }
