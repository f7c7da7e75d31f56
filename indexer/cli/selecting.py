"""Options that name works: of `gmvaluator index remove` and `gmvaluator index restore`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click

from gmvaluator.catalogue.listing import find_owner
from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.records import check_data_set
from gmvaluator.catalogue.removal import Selection
from gmvaluator.commands.parameters import FILE
from gmvaluator.errors import InvalidInput, NotFound, PreconditionFailed
from gmvaluator.ids import OwnerId
from gmvaluator.text import unicode_forms
from indexer.name_list import Entry, Unmatched, parse_list, read_list, write_unmatched

Command = TypeVar("Command", bound=Callable[..., Any])

SHOWN = 20
"""Maximum number of works that a command prints."""

_OWNER = "owner:"
_OPTION = 0
"""Stands for the line of an entry that was given as an option."""


@dataclass(frozen=True, slots=True)
class NamedWorks:
    """What a command was told: keys, and entries of options and lists, each a SHA-256, an owner or a name."""

    keys: tuple[str, ...]
    entries: tuple[Entry, ...]
    data_set: str | None
    _owners: dict[str, OwnerId] = field(default_factory=dict)
    """Owners by the text of their entries, once the selection was made."""

    def __bool__(self) -> bool:
        return bool(self.keys or self.entries)

    def selection(self, catalogue: CatalogueReader) -> Selection:
        """Return the selection. Raises InvalidInput if nothing is named, NotFound for an unknown owner."""
        if not self:
            raise InvalidInput("nothing is named: give --key, --url, --sha256, --owner or --from FILE")
        self._owners.update((entry.text, _owner(catalogue, entry)) for entry in self.entries if _is_owner(entry))
        return Selection(
            frozenset(entry.sha256 for entry in self.entries if entry.sha256),
            frozenset(form for key in self.keys for form in unicode_forms(key)),
            frozenset(name for entry in self.entries if not _is_owner(entry) for name in entry.names),
            frozenset(self._owners.values()),
            check_data_set(self.data_set) if self.data_set is not None else None,
        )

    def unmatched(self, names: Collection[str], owners: Collection[OwnerId]) -> list[Entry]:
        """Return the entries that named nothing. names: keys, names and SHA-256s that did; owners: likewise.

        An owner's manifest id is not repeated, as reports are kept.
        """
        nothing = set(names)
        unmatched = [Entry(_OPTION, key) for key in self.keys if nothing.issuperset(unicode_forms(key))]
        for entry in self.entries:
            if _is_owner(entry):
                if self._owners[entry.text] in owners:
                    unmatched.append(Entry(entry.line, f"{_OWNER}{self._owners[entry.text]}"))
            elif not entry.is_comment and nothing.issuperset(entry.names or (entry.sha256,)):
                unmatched.append(entry)
        return unmatched


def naming_options(command: Command) -> Command:
    """Add the options that name works to a command, which receives them as one argument, `named`, a NamedWorks."""

    @wraps(command)
    def with_named(
        *args: Any,
        keys: tuple[str, ...],
        urls: tuple[str, ...],
        sha256s: tuple[str, ...],
        owners: tuple[str, ...],
        file: Path | None,
        data_set: str | None,
        **options: Any,
    ) -> Any:
        given = [
            *(Entry(_OPTION, text, names=(text,)) for text in urls),
            *(_hash_entry(text) for text in sha256s),
            *(Entry(_OPTION, f"{_OWNER}{text}", names=(f"{_OWNER}{text}",)) for text in owners),
            *(parse_list(read_list(file), file) if file is not None else ()),
        ]
        return command(*args, named=NamedWorks(keys, tuple(given), data_set), **options)

    for option in reversed(_OPTIONS):
        with_named = option(with_named)
    return cast(Command, with_named)


_OPTIONS = (
    click.option("--key", "keys", multiple=True, help="The work with this key; may be repeated."),
    click.option("--url", "urls", multiple=True, help="The work at this URL, on the web or of its file."),
    click.option("--sha256", "sha256s", multiple=True, help="The work whose file has this SHA-256; may be repeated."),
    click.option("--owner", "owners", multiple=True, help="Works that an owner (UUID or manifest id) has a claim on."),
    click.option(
        "--from",
        "file",
        type=FILE,
        help="File with one entry per line: a SHA-256, owner:ID, a URL, or else a key.",
    ),
    click.option("--data-set", help="Data set of the keys; default: every data set."),
)


def refuse_ambiguous(ambiguous: dict[str, tuple[str, ...]]) -> None:
    """Raise InvalidInput if a key is of several works: which of them is meant is not to be guessed."""
    for key, sha256s in ambiguous.items():
        shown = ", ".join(sha256s[:SHOWN])
        raise InvalidInput(
            f"{len(sha256s)} works have the key {key[:100]!r}, by different records, and nothing was changed: name "
            f"those that are meant by --data-set, --url or --sha256, one of {shown}"
        )


def report_unmatched(entries: Sequence[Entry], file: Path) -> Unmatched | None:
    """Write the entries that named nothing to `file`, and show the first on stderr; return them, or None."""
    unmatched = write_unmatched(file, entries) if entries else None
    if unmatched is not None:
        for text in unmatched.first:
            click.echo(text.removeprefix(f"line {_OPTION}: "), err=True)
        click.echo(f"{unmatched.entries:,} entries name nothing that is known; {file} lists them", err=True)
    return unmatched


def unmatched_as_dict(unmatched: Unmatched | None) -> dict[str, Any]:
    """Return entries that named nothing as plain data: the first of them, their number, and the file of all."""
    if unmatched is None:
        return {"unmatched": [], "unmatched_entries": 0, "unmatched_file": None}
    first = [text.removeprefix(f"line {_OPTION}: ") for text in unmatched.first]
    return {"unmatched": first, "unmatched_entries": unmatched.entries, "unmatched_file": str(unmatched.file)}


def _hash_entry(text: str) -> Entry:
    entries = list(parse_list([text], "--sha256"))
    if not entries or not entries[0].sha256:
        raise InvalidInput(f"{text[:80]!r} is no SHA-256: give 64 hexadecimal digits")
    return Entry(_OPTION, text, entries[0].sha256)


def _is_owner(entry: Entry) -> bool:
    return entry.text.startswith(_OWNER)


def _owner(catalogue: CatalogueReader, entry: Entry) -> OwnerId:
    try:
        return find_owner(catalogue, entry.text.removeprefix(_OWNER))
    except (NotFound, PreconditionFailed, InvalidInput) as error:
        raise type(error)(f"line {entry.line} of the list: {error}" if entry.line else str(error)) from None
