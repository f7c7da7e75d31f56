"""WebDataset tar shards: members of one sample are adjacent and share a name up to the first dot."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import IO, Self

from gmvaluator.errors import InvalidInput, InvalidManifest
from gmvaluator.training_images import ENDINGS as IMAGE_ENDINGS
from gmvaluator.training_images import MAX_BYTES
from indexer.sources.columns import Columns, described
from indexer.sources.img2dataset import failed_downloads
from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.roots import Root, printable

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_IMAGES = (*IMAGE_ENDINGS, "img")
_TEXTS = {"txt": "title", "text": "title", "caption": "title", "cls": "category"}
_MAX_METADATA_BYTES = 1024 * 1024
"""Maximum size of a sample's text or JSON, and of an extended header, in bytes."""

_MAX_MEMBERS = 32
"""Maximum number of members of one sample; later ones are ignored."""

_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Types of headers that describe other members; `tarfile` reads each of them into memory."""


class _Member(tarfile.TarInfo):
    """A member of an archive; a damaged header, or one that would fill the memory, raises ReadError.

    `tarfile` itself takes a damaged header for the archive's end, and the rest would be lost without notice.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and any(buf):
                raise tarfile.ReadError(f"a member's header is no header: {error}") from error
            raise
        if member.type in _EXTENDED and not 0 <= member.size <= _MAX_METADATA_BYTES:
            raise tarfile.ReadError(f"a header has {member.size:,} bytes; the limit is {_MAX_METADATA_BYTES:,}")
        return member


def tar_source(root: Root, names: Sequence[str], parquets: Sequence[str] = ()) -> Source:
    """Return a source of tar shards; the number of their samples is known only after reading.

    parquets: Parquet files of img2dataset, which list the downloads that are missing from the tars of the same name.

    Raises InvalidInput if a shard's compression cannot be read.
    """
    zstd = [name for name in names if name.endswith(".zst")]
    if zstd and "zst" not in tarfile.TarFile.OPEN_METH:
        raise InvalidInput(f"{root.uri(zstd[0])} cannot be read by this Python: decompress it by `unzstd`, or use 3.14")
    shards = [Shard(name, root.fingerprint(name), None, partial(_items, root, name)) for name in names]
    stems = {name[: -len(ending)] for name in names for ending in ENDINGS if name.endswith(ending)}
    failed = [failed_downloads(root, name) for name in parquets if name.removesuffix(".parquet") in stems]
    return Source(root.url, [*shards, *failed])


def _items(root: Root, name: str, start: int) -> Iterator[Item]:
    return islice((_item(root, name, key, members) for key, members in _samples(root, name)), start, None)


def _samples(root: Root, name: str) -> Iterator[tuple[str, dict[str, bytes | str]]]:
    """Yield the key and the members of each sample, by ending; for an unreadable member the reason, as text."""
    key, members = "", dict[str, bytes | str]()
    for member_key, ending, data in _members(root, name):
        if member_key != key:
            if members:
                yield key, members
            key, members = member_key, {}
        if len(members) < _MAX_MEMBERS:
            members[ending] = data
    if members:
        yield key, members


def _members(root: Root, name: str) -> Iterator[tuple[str, str, bytes | str]]:
    try:
        # As a stream, "r|*": it is read once, in order, and a remote file need not seek.
        with root.open(name) as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
            for member in archive:
                if member.isfile():
                    yield *_named(member.name), _content(archive, member)
            _check_end(archive)
    except (tarfile.TarError, EOFError, RecursionError) as error:
        yield _rest(name, error)
    except OSError as error:
        root.require_reachable(name, error)
        yield _rest(name, error)


def _rest(name: str, error: Exception) -> tuple[str, str, str]:
    """Return one reject for the rest of a damaged shard, so that it is counted; what was read before it stays."""
    return f"{name} (the rest of the shard)", "jpg", f"the shard ends early or is damaged: {error}"


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError if the end marker is missing: an archive cut between two members is otherwise valid."""
    if archive.fileobj is None or archive.fileobj.tell() - archive.offset < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end marker")


def _named(member: str) -> tuple[str, str]:
    """Split `a/b.c/000.seg.png` into the sample `a/b.c/000` and its member `seg.png`."""
    folder, _, base = printable(member).rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}/{stem}".lstrip("/") if folder else stem, ending.lower()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str:
    ending = _named(member.name)[1]
    limit = MAX_BYTES if ending in _IMAGES else _MAX_METADATA_BYTES
    if member.size > limit:
        return f"{printable(member.name)} has {member.size:,} bytes; the limit is {limit:,}"
    content: IO[bytes] | None = archive.extractfile(member)
    return content.read() if content is not None else ""


def _item(root: Root, shard: str, key: str, members: Mapping[str, bytes | str]) -> Item:
    ending = next((ending for ending in _IMAGES if ending in members), None)
    if ending is None:
        return Unreadable(key, f"sample {key} of {shard} has no image ({', '.join(_IMAGES)})")
    data = members[ending]
    if isinstance(data, str):
        return Unreadable(key, data)
    fields = _fields(members, f"{shard}: {key}")
    if isinstance(fields, str):
        return Unreadable(key, fields)
    # Samples of different shards often have the same name, and a key has to be unique in its data set.
    key_of_all = fields.get("key") or f"{shard}/{key}"
    return SourceItem(key_of_all, f"{root.uri(shard)}#{key}.{ending}", partial(bytes, data), **described(fields))


def _fields(members: Mapping[str, bytes | str], where: str) -> dict[str, str] | str:
    """Return the fields of a sample's texts and JSON, or the reason why they cannot be read."""
    fields = {}
    try:
        document = _json(members.get("json", b"{}"), where)
        fields = Columns(document).fields(document, where)
        for ending, ours in _TEXTS.items():
            text = members.get(ending)
            if isinstance(text, bytes) and not fields.get(ours):
                fields[ours] = text.decode("utf-8", "replace").strip()[:_MAX_METADATA_BYTES]
    except InvalidManifest as error:
        return str(error)
    return fields


def _json(data: bytes | str, where: str) -> dict[str, object]:
    if isinstance(data, str):
        raise InvalidManifest(data)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{where}: its JSON cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidManifest(f"{where}: its JSON is no object")
    return document
