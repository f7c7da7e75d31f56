"""Build a folder of 1,500 images without a source in the sample, for the benchmark's third draw and for fitting.

    apt-get update && apt-get download openclipart-png lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 \\
        tuxpaint-stamps-default
    for package in *.deb; do dpkg -x $package unpacked; done
    python -m evaluation.images.make_foreign_set --unpacked unpacked --out FOLDER
    gmvaluator evaluate known-source --draw third --foreign FOLDER

The shipped foreign images, more windows of their photographs, more clip art by their artists, and the stamps of Tux
Paint. They are too many for the wheel; `foreign-set.csv` has the name, split and hash of each, and of those left out
the reason: `evaluation.images.check_foreign` lists what resembles a work, and a person looked.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from PIL import Image

from evaluation.images.make_examples import encode
from evaluation.images.make_foreign import photographs, split_of, strangers, window
from evaluation.images.sample import Foreign, read_foreign
from evaluation.images.works import author_of, read_work
from gmvaluator.ids import sha256_hex
from gmvaluator.samples import sample_folder

LIST = Path(__file__).parent / "foreign-set.csv"
WINDOWS = (
    *((0.2, 0.7, 0.5), (0.8, 0.3, 0.5), (0.5, 0.2, 0.4), (0.5, 0.8, 0.4), (0.3, 0.5, 0.35), (0.7, 0.5, 0.35)),
    *((0.5, 0.5, 0.45), (0.15, 0.15, 0.3), (0.85, 0.85, 0.3), (0.35, 0.3, 0.6)),
    *((0.65, 0.65, 0.55), (0.1, 0.5, 0.4)),
)
"""Centre, and side as a share of the shorter side; none is a window of the shipped images."""

WORKS_PER_ARTIST = 150
"""Limit of works by one artist who is for tests; of one who is for fitting a third as many are taken."""

STAMPS_PER_GROUP = 80
STAMPS_FIT = "01"
"""First digits of the hashes of groups of stamps that are for fitting: one in eight, as tests need the most."""

_STAMPS = "usr/share/tuxpaint/stamps"
_MIRRORED = ("_mirror", "_flip")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of `foreign-set.csv`. left_out: the reason why an image does not count as foreign, or empty."""

    file_name: str
    split: str
    sha256: str
    left_out: str


def read_list(path: Path = LIST) -> dict[str, Entry]:
    """Read the list; return its entries by file name."""
    with path.open(encoding="utf-8", newline="") as lines:
        return {row["file_name"]: Entry(**row) for row in csv.DictReader(lines)}


def stamp_split(group: str) -> str:
    """Return the split of a group of stamps, `fit` or `test`; it never changes."""
    return "fit" if sha256_hex(f"foreign/stamp/{group}".encode())[0] in STAMPS_FIT else "test"


def make(unpacked: Path, out: Path, entries: dict[str, Entry]) -> tuple[list[Foreign], list[Foreign]]:
    """Write the images that count as foreign, and `manifest.csv`, to `out`; return them, and those left out."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = [*_shipped(out), *_photographs(unpacked, out), *_strangers(unpacked, out), *_stamps(unpacked, out)]
    first = {row.sha256: row for row in reversed(rows)}
    distinct = [row for row in rows if first[row.sha256] is row]
    kept = [row for row in distinct if row.file_name not in entries or not entries[row.file_name].left_out]
    for name in {row.file_name for row in rows} - {row.file_name for row in kept}:
        (out / name).unlink()
    write_table(out / "manifest.csv", Foreign, kept)
    return kept, [row for row in distinct if row not in kept]


def write_table(path: Path, kind: type[Foreign] | type[Entry], rows: Sequence[Foreign] | Sequence[Entry]) -> None:
    """Write rows of this kind as CSV, with a header."""
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _shipped(out: Path) -> Iterator[Foreign]:
    folder = sample_folder("foreign")
    for row in read_foreign(folder):
        shutil.copyfile(folder / row.file_name, out / row.file_name)
        yield row


def _photographs(unpacked: Path, out: Path) -> Iterator[Foreign]:
    for name, path, author, terms, source in photographs(unpacked):
        with Image.open(path) as image:
            photograph = image.convert("RGB")
        for number, place in enumerate(WINDOWS):
            file_name = f"images/photo-{name.lower()}-more-{number}.webp"
            sha256 = _written(out / file_name, window(photograph, *place))
            yield Foreign(file_name, "photo", name, split_of(name), author, terms, source, sha256)


def _strangers(unpacked: Path, out: Path) -> Iterator[Foreign]:
    """Yield works by the shipped strangers; the shipped ones come again and are dropped by their hash."""
    folder = unpacked / "usr/share/openclipart/png"
    for artist, works in sorted(strangers(folder).items()):
        limit = WORKS_PER_ARTIST if split_of(artist) == "test" else WORKS_PER_ARTIST // 3
        for name in sorted(works, key=lambda name: sha256_hex(name.encode()))[:limit]:
            for work in read_work(folder, name):
                file_name = f"images/stranger-{_stem(name)}.webp"
                sha256 = _written(out / file_name, work.image)
                source = "Open Clip Art Library 0.18"
                yield Foreign(
                    file_name, "stranger", artist, split_of(artist), work.artist, "CC-PDM-1.0", source, sha256
                )


def _stamps(unpacked: Path, out: Path) -> Iterator[Foreign]:
    """Yield the stamps that are drawn as pixels; a group is a folder of at most two names, such as `animals/birds`."""
    folder = unpacked / _STAMPS
    groups: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not name.endswith(_MIRRORED):
            groups.setdefault("/".join(name.split("/")[:-1][:2]), []).append(name)
    for group, names in sorted(groups.items()):
        for name in sorted(names, key=lambda name: sha256_hex(name.encode()))[:STAMPS_PER_GROUP]:
            author = author_of(folder / f"{name}.png").strip() or "Bill Kendrick and contributors to Tux Paint"
            for work in read_work(folder, name):
                file_name = f"images/stamp-{_stem(name)}.webp"
                sha256 = _written(out / file_name, work.image)
                source = "Debian tuxpaint-stamps-default 2022.06.04"
                yield Foreign(file_name, "stamp", group, stamp_split(group), author, "GPL-2.0-or-later", source, sha256)


def _stem(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower())


def _written(path: Path, image: Image.Image) -> str:
    """Write the image; return the SHA-256 of the file."""
    data = encode(image)
    path.write_bytes(data)
    return sha256_hex(data)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.images.make_foreign_set",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--unpacked", type=Path, required=True, help="folder of the unpacked Debian packages")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--record", action="store_true", help="write the list anew; reasons for leaving out stay")
    options = parser.parse_args(arguments)
    entries = read_list() if LIST.exists() else {}
    kept, left_out = make(options.unpacked, options.out, entries)
    if options.record:
        write_table(LIST, Entry, [_entry(row, entries) for row in (*kept, *left_out)])
    counts = {split: sum(row.split == split for row in kept) for split in ("fit", "test")}
    print(f"wrote {counts} images to {options.out}; {len(left_out)} were left out", file=sys.stderr)  # noqa: T201
    return 0 if options.record else _compared(kept, entries)


def _entry(row: Foreign, entries: dict[str, Entry]) -> Entry:
    reason = entries[row.file_name].left_out if row.file_name in entries else ""
    return Entry(row.file_name, row.split, row.sha256, reason)


def _compared(kept: Sequence[Foreign], entries: dict[str, Entry]) -> int:
    """Return 1, and say so, if the images are not those of the list."""
    built = {row.file_name: row.sha256 for row in kept}
    listed = {name: entry.sha256 for name, entry in entries.items() if not entry.left_out}
    names = sorted(name for name in {*built, *listed} if built.get(name) != listed.get(name))
    if names:
        print(  # noqa: T201
            f"{len(names)} images differ from {LIST.name}, the first is {names[0]}: use the packages' versions that "
            "it was made from, and the locked version of Pillow",
            file=sys.stderr,
        )
    return 1 if names else 0


if __name__ == "__main__":
    raise SystemExit(main())
