"""Survey of a tar shard's names before its images are read: which samples have members that are not adjacent.

WebDataset takes adjacent members for a sample. Tars of `tar cf x.tar *.jpg *.json` are in another order, and names with
several dots mean one image each. A survey finds such samples and keeps their metadata, so that it counts whatever the
order, or the images are rejected.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from indexer.sources.item import IMAGE_ENDINGS
from indexer.sources.roots import Root
from indexer.sources.tar_archive import DamagedArchive, Member, read_members

MAX_METADATA_BYTES = 1024 * 1024
"""Maximum size of a sample's text or JSON, in bytes."""

TEXTS = {"txt": "title", "text": "title", "caption": "title", "cls": "category"}
"""Endings of texts to the columns that they are."""

_MAX_ADJACENT = 32
"""Maximum number of members of one sample that are read into memory together."""

_MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Maximum size of the metadata of a shard that is kept because it is not next to its image, in bytes."""


class Name(NamedTuple):
    """The name of a member: `a/b.c/000.seg.png` of sample `a/b.c/000` has the ending `seg.png`.

    part: the archive of the file, from 0, if several were joined; each counts its samples by itself.
    """

    part: int
    folder: str
    stem: str
    ending: str
    file_ending: str = ""

    @classmethod
    def of(cls, part: int, member: str) -> Name:
        """Split the name of a member."""
        folder, _, base = member.rpartition("/")
        # A dot in front belongs to the name, as in every shell.
        dot = base.find(".", 1)
        stem, ending = (base[:dot], base[dot + 1 :]) if dot > 0 else (base, "")
        return cls(part, folder, stem, ending.lower(), ending)

    @property
    def sample(self) -> Name:
        """The sample: the name without its ending, in one spelling of `./a` and `a`."""
        return Name(self.part, posixpath.normpath(f"/{self.folder}").lstrip("/"), self.stem, "")

    @property
    def stem_of_file(self) -> str:
        """The file's name without what follows the last dot."""
        inner = self.file_ending.rpartition(".")[0]
        return f"{self.stem}.{inner}" if inner else self.stem

    @property
    def is_image(self) -> bool:
        """Whether the ending is that of an image."""
        return self.ending.rpartition(".")[2] in IMAGE_ENDINGS

    def key(self, ending: str = "") -> str:
        """Return the key of the sample, or of one of its members, within the shard."""
        stem = f"{self.folder}/{self.stem}".lstrip("/") if self.folder else self.stem
        part = f"part {self.part + 1}/" if self.part else ""
        return f"{part}{stem}.{ending}" if ending else part + stem


def is_metadata(ending: str) -> bool:
    """Return whether a member with this ending describes an image."""
    last = ending.rpartition(".")[2]
    return last == "json" or last in TEXTS


def metadata_kinds(endings: Iterable[str]) -> frozenset[str]:
    """Return which metadata members with these endings are: "json" if one of them is, else the texts."""
    kinds = {ending.rpartition(".")[2] for ending in endings if is_metadata(ending)}
    return frozenset(kinds & {"json"} or kinds)


@dataclass(slots=True)
class OddSample:
    """A sample whose members are not adjacent, or which has several images. metadata: its members that are no image."""

    images: int = 0
    metadata: dict[str, bytes | str] = field(default_factory=dict)


@dataclass(slots=True)
class Survey:
    """What the names of a shard show. lost: the metadata that its samples have, if a part of it cannot be read."""

    odd: dict[Name, OddSample] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()

    def has_lost(self, members: Iterable[str]) -> bool:
        """Return whether the metadata of a sample with these members may be in the part that cannot be read."""
        return bool(self.lost) and not self.lost <= metadata_kinds(members)


class _Run(NamedTuple):
    """What adjacent members of one sample are: names of several kinds, and whether one of them repeats."""

    images: int
    dotted_images: int
    metadata: frozenset[str]
    is_odd: bool

    @property
    def all_images(self) -> int:
        """The number of images, whether or not their names have several dots."""
        return self.images + self.dotted_images

    @property
    def is_complete(self) -> bool:
        """Whether the members are a sample by themselves."""
        return bool(self.images and self.metadata) and not self.is_odd


def survey(root: Root, shard: str) -> Survey:
    """Read the names of a shard, and the metadata of the samples that need it. Raises Unavailable."""
    result, runs, kinds = Survey(), dict[Name, _Run](), set[str]()
    names = _Names(root, shard)
    for sample, members in groupby(names, key=lambda name: name.sample):
        run = _run([name.ending for name in members])
        kinds |= run.metadata
        before = runs.get(sample)
        runs[sample] = run
        if sample in result.odd:
            result.odd[sample].images += run.all_images
        elif run.is_odd or (before is not None and not (before.is_complete and run.is_complete)):
            result.odd[sample] = OddSample(run.all_images + (before.all_images if before is not None else 0))
    if names.damaged:
        result.lost = metadata_kinds(kinds)
    if result.odd:
        _collect(root, shard, result)
    return result


@dataclass(slots=True)
class _Names:
    """The names of a shard, up to its end or to where it is damaged."""

    root: Root
    shard: str
    damaged: bool = False

    def __iter__(self) -> Iterator[Name]:
        try:
            for member in read_members(self.root, self.shard, lambda _: 0):
                yield Name.of(member.part, member.name)
        except DamagedArchive:
            self.damaged = True


def _run(endings: list[str]) -> _Run:
    kinds = set(endings)
    images = sum(ending in IMAGE_ENDINGS for ending in endings)
    dotted = sum("." in ending and ending.rpartition(".")[2] in IMAGE_ENDINGS for ending in endings)
    # Images of one sample are read one by one, as each may take hundreds of megabytes.
    odd = len(kinds) < len(endings) or len(kinds) > _MAX_ADJACENT or images > 1 or (dotted > 0 and not images)
    return _Run(images, dotted, metadata_kinds(kinds), odd)


def _collect(root: Root, shard: str, result: Survey) -> None:
    """Read the metadata of odd samples. What is too much, or says two things, is a reason to reject the images."""
    kept_bytes = 0

    def limit(name: str) -> int:
        return MAX_METADATA_BYTES if is_metadata(Name.of(0, name).ending) else 0

    for member in _members_until_damage(root, shard, limit):
        name = Name.of(member.part, member.name)
        odd = result.odd.get(name.sample)
        if odd is None or not is_metadata(name.ending):
            continue
        kept_bytes += len(member.data or b"")
        data = _one_of(odd.metadata.get(name.ending), member)
        if kept_bytes > _MAX_KEPT_BYTES:
            data = (
                f"its metadata is not next to it, and more than {_MAX_KEPT_BYTES:,} bytes of the shard: pack it again"
            )
        odd.metadata[name.ending] = data


def _one_of(before: bytes | str | None, member: Member) -> bytes | str:
    data = member.problem if member.data is None else member.data
    if before is None or before == data:
        return data
    return f"the sample has two members {member.name} that differ: keep one of them"


def _members_until_damage(root: Root, shard: str, limit: Callable[[str], int]) -> Iterator[Member]:
    try:
        yield from read_members(root, shard, limit)
    except DamagedArchive:
        return
