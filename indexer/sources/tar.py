"""WebDataset tar shards: members of one sample share a name up to the first dot; `tar_survey` handles odd orders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any

from gmvaluator.errors import InvalidManifest
from gmvaluator.training_images import MAX_BYTES
from indexer.sources.columns import Columns, described
from indexer.sources.consent import opt_out_signal
from indexer.sources.ignored_columns import IgnoredColumns
from indexer.sources.img2dataset import failed_downloads
from indexer.sources.item import IMAGE_ENDINGS, Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.roots import Root
from indexer.sources.tar_archive import DamagedArchive, Member, read_members
from indexer.sources.tar_survey import MAX_METADATA_BYTES, TEXTS, Name, Survey, is_metadata, survey

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")


def tar_source(root: Root, names: Sequence[str], parquets: Sequence[str] = ()) -> Source:
    """Return a source of tar shards; the number of their samples is known only after reading.

    parquets: Parquet files of img2dataset, which list the downloads that are missing from the tars of the same name.
    """
    ignored = IgnoredColumns()
    shards = [Shard(name, root.fingerprint(name), None, partial(_items, root, name, ignored)) for name in names]
    stems = {name[: -len(ending)] for name in names for ending in ENDINGS if name.endswith(ending)}
    failed = [failed_downloads(root, name) for name in parquets if name.removesuffix(".parquet") in stems]
    return Source(root.url, [*shards, *failed], ignored)


def _items(root: Root, shard: str, ignored: IgnoredColumns, start: int) -> Iterator[Item]:
    return islice(_Shard(root, shard, survey(root, shard), ignored).items(), start, None)


@dataclass(slots=True)
class _Sample:
    """Adjacent members of one name, by ending. members: bytes, or as text the reason why they cannot be used."""

    name: Name
    members: dict[str, bytes | str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shard:
    """A tar shard whose names were surveyed."""

    root: Root
    shard: str
    survey: Survey
    ignored: IgnoredColumns

    @cached_property
    def odd_names(self) -> set[tuple[str, str]]:
        """Folder and stem of the samples that are read image by image."""
        return {(name.folder, name.stem) for name in self.survey.odd}

    def items(self) -> Iterator[Item]:
        """Yield an item for each image, and one for each sample that has none."""
        sample: _Sample | None = None
        used: set[Name] = set()
        try:
            for member in read_members(self.root, self.shard, self._limit):
                name = Name.of(member.part, member.name)
                if sample is not None and sample.name.sample != name.sample:
                    yield from self._sample_items(sample)
                    sample = None
                if name.sample in self.survey.odd:
                    yield from self._odd_item(name, member, used)
                else:
                    sample = sample or _Sample(name)
                    sample.members[name.ending] = member.problem if member.data is None else member.data
            if sample is not None:
                yield from self._sample_items(sample)
        except DamagedArchive as error:
            # What was read before the damage stays; the rest is one reject, so that it is counted.
            if sample is not None:
                yield from self._sample_items(sample)
            reason = f"the shard ends early or is damaged: {error}"
            yield Unreadable(f"{self.shard} (the rest of the shard)", reason)

    def _limit(self, member: str) -> int:
        """Return how many bytes of a member are read; an image that belongs to the one of its sample is not needed."""
        name = Name.of(0, member)
        if name.is_image:
            needed = "." not in name.ending or (name.sample.folder, name.stem) in self.odd_names
            return MAX_BYTES if needed else 0
        return MAX_METADATA_BYTES if is_metadata(name.ending) else 0

    def _sample_items(self, sample: _Sample) -> Iterator[Item]:
        """Yield the item of a sample whose members are adjacent, and rejects of images that belong to its image."""
        image = next((ending for ending in IMAGE_ENDINGS if ending in sample.members), None)
        if image is None:
            yield self._without_image(sample.name, sample.members)
            return
        yield self._item(sample.name.key(), image, sample.members[image], sample.members)
        for ending in sample.members:
            if "." in ending and ending.rpartition(".")[2] in IMAGE_ENDINGS:
                reason = f"it belongs to the sample whose image is .{image}: to index it too, rename it"
                yield Unreadable(f"{self.shard}/{sample.name.key(ending)}", reason)

    def _odd_item(self, name: Name, member: Member, used: set[Name]) -> Iterator[Item]:
        """Yield the item of an image whose metadata the survey has collected."""
        odd = self.survey.odd[name.sample]
        if name.is_image:
            # The first image of a name has it as its key; the others have the ending too.
            own = Name(name.part, name.folder, name.stem_of_file, "")
            key = own.key(name.file_ending if own in used else "")
            used.add(own)
            data = member.problem if member.data is None else member.data
            yield self._item(key, name.ending, data, odd.metadata)
        elif not odd.images and name.sample not in used:
            used.add(name.sample)
            yield self._without_image(name, odd.metadata)

    def _without_image(self, name: Name, members: Mapping[str, Any]) -> Item:
        has = ", ".join(sorted(members)) or name.ending
        reason = f"sample {name.key()} of {self.shard} has {has}, but no image ({', '.join(IMAGE_ENDINGS)})"
        return Unreadable(name.key(), reason)

    def _item(self, key: str, ending: str, data: bytes | str, members: Mapping[str, bytes | str]) -> Item:
        """Return the item of one image. members: the metadata of its sample, and maybe other members."""
        if isinstance(data, str):
            return Unreadable(key, data or "the member cannot be read")
        if self.survey.has_lost(members):
            return Unreadable(
                key, f"{self.shard} is damaged, and this image's metadata may be in the part that is lost"
            )
        try:
            fields = _fields(members, ending, f"{self.shard}: {key}", self.ignored)
        except InvalidManifest as error:
            return Unreadable(key, str(error))
        # Samples of different shards often have the same name, and a key has to be unique in its data set.
        key_of_all = fields.get("key") or f"{self.shard}/{key}"
        uri = f"{self.root.uri(self.shard)}#{key}.{ending}"
        return SourceItem(key_of_all, uri, partial(bytes, data), **described(fields))


def _fields(members: Mapping[str, bytes | str], ending: str, where: str, ignored: IgnoredColumns) -> dict[str, str]:
    """Return the fields of an image's JSON and texts. Raises InvalidManifest if one of them cannot be read.

    For `000.png` the JSON is `000.png.json` or `000.json`; for `a.1.png`, an image of sample `a`, it is `a.1.png.json`,
    `a.1.json` or `a.json`. Whatever JSON of an image refuses training refuses it.
    """
    inner = ending.rpartition(".")[0]
    documents = {name: _json(data, where) for name, data in members.items() if _describes(name, inner)}
    names = (f"{ending}.json", f"{inner}.json", "json")
    own = next((name for name in names if name in documents), None)
    if own is None and len(documents) == 1:
        own = next(iter(documents))
    document = documents[own] if own is not None else {}
    columns = Columns(document)
    columns.note_ignored(ignored)
    fields = columns.fields(document, where)
    for signal in filter(None, map(_signal, documents.values())):
        fields["opt_out"] = fields["opt_out"] or signal
    for text_ending, ours in TEXTS.items():
        data = members.get(f"{inner}.{text_ending}" if inner else text_ending, members.get(text_ending, b""))
        if isinstance(data, str):
            raise InvalidManifest(data)
        if not fields.get(ours):
            fields[ours] = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip()
    return fields


def _describes(name: str, inner: str) -> bool:
    """Return whether the member `name` is JSON of an image; inner: its ending without the last part, often ""."""
    return name.rpartition(".")[2] == "json" and (not inner or name == "json" or name.startswith(f"{inner}."))


def _signal(document: Mapping[str, object]) -> str:
    return opt_out_signal({name: str(value) for name, value in document.items() if value is not None})


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
