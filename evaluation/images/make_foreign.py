"""Write `examples/foreign/`: images without a source in the sample, to measure what is paid to strangers.

    apt-get update && apt-get download openclipart-png lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for package in *.deb; do dpkg -x $package unpacked; done
    python -m evaluation.images.make_foreign --unpacked unpacked --digits mnist10k.npz

Photographs (three windows of each), clip art by artists who were neither indexed nor used for training, and handwritten
digits. Half of the photographs, artists and digits are for fitting, half for tests. Noise and gradients are generated
when they are needed.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image, ImageOps

from evaluation.images.make_examples import encode
from evaluation.images.sample import Foreign
from evaluation.images.works import LIST, author_of, by_sample_artist, read_work
from gmvaluator.ids import sha256_hex

PHOTO_WINDOWS = ((0.5, 0.5, 1.0), (0.2, 0.3, 0.6), (0.8, 0.7, 0.6))
"""Centre, and side as a share of the shorter side."""

WORKS_PER_ARTIST = 20
KNOWN_OTHERWISE = ("rollandin", "jakob")
"""Other spellings of artists who are in the sample or among the training works."""

DIGITS = 40
SIDE_PX = 256

_UBUNTU = {
    "Bridge_by_Sander_Klootwijk": ("Sander Klootwijk", "CC-BY-SA-4.0"),
    "Dragonfly_by_Bolly": ("Bolly", "CC-BY-SA-4.0"),
    "Kleiber_by_Lukas_Baubkus": ("Lukas Baubkus", "CC-BY-SA-3.0"),
    "Picture_0B_by_freespace": ("Trevor Freespace", "CC-BY-4.0"),
    "Picture_1A_by_freespace": ("Trevor Freespace", "CC-BY-4.0"),
    "Wine_by_Jakkub_Mede": ("Jakub Mede", "CC-BY-4.0"),
    "aitzgorri_by_Aitzol_Berasategi": ("Aitzol Berasategi", "CC-BY-4.0"),
    "free_by_Peter_Nerlich": ("Peter Nerlich", "CC-BY-SA-4.0"),
    "friends_by_Aitzol_Berasategi": ("Aitzol Berasategi", "CC-BY-4.0"),
    "greentock_by_Peter_Nerlich": ("Peter Nerlich", "CC-BY-SA-4.0"),
    "life_by_Aitzol_Berasategi": ("Aitzol Berasategi", "CC-BY-4.0"),
    "picosdeeuropa_by_Aitzol_Berasategi": ("Aitzol Berasategi", "CC-BY-4.0"),
    "seeding_by_Clements_Engelhardt": ("Clemens Engelhardt", "CC0-1.0"),
    "sunset_by_Aitzol_Berasategi": ("Aitzol Berasategi", "CC-BY-4.0"),
}
_SCIKIT_IMAGE = {
    "astronaut": ("NASA", "public domain"),
    "brick": ("CC0 Textures", "CC0-1.0"),
    "camera": ("Lav Varshney", "CC0-1.0"),
    "chelsea": ("Stefan van der Walt", "CC0-1.0"),
    "clock_motion": ("Stefan van der Walt", "public domain"),
    "coffee": ("Rachel Michetti", "CC0-1.0"),
    "grass": ("Linolafett", "CC0-1.0"),
    "gravel": ("CC0 Textures", "CC0-1.0"),
    "moon": ("NASA", "public domain"),
    "rocket": ("SpaceX", "CC0-1.0"),
}
_SCIKIT_LEARN = {
    "china": ("danielbuechele", "CC-BY-2.0"),
    "flower": ("vultilion", "CC-BY-2.0"),
}


def split_of(group: str) -> str:
    """Return the split, `fit` or `test`; it never changes."""
    return "fit" if sha256_hex(f"foreign/{group}".encode())[0] in "01234567" else "test"


def photographs(unpacked: Path) -> Iterator[tuple[str, Path, str, str, str]]:
    """Yield name, file, author, licence and origin."""
    backgrounds = unpacked / "usr/share/backgrounds"
    for name, (author, terms) in _UBUNTU.items():
        yield name, backgrounds / f"{name}.jpg", author, terms, "Debian lomiri-wallpapers"
    for name, (author, terms) in _SCIKIT_IMAGE.items():
        path = next(Path(skimage.data.__file__).parent.glob(f"{name}.*"))
        yield name, path, author, terms, "scikit-image"
    for name, (author, terms) in _SCIKIT_LEARN.items():
        yield name, Path(sklearn.datasets.__file__).parent / "images" / f"{name}.jpg", author, terms, "scikit-learn"


def window(image: Image.Image, x: float, y: float, share: float) -> Image.Image:
    """Return a square window of the image, 256 x 256.

    x, y: its centre as shares of width and height; it is moved inside where it would stand out. share: its side as a
    share of the shorter side.
    """
    side_px = round(share * min(image.size))
    left, top = round(x * image.width - side_px / 2), round(y * image.height - side_px / 2)
    left, top = min(max(left, 0), image.width - side_px), min(max(top, 0), image.height - side_px)
    cut = image.crop((left, top, left + side_px, top + side_px))
    return cut.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def strangers(folder: Path) -> dict[str, list[str]]:
    """Return works by artist, of artists who have nothing in the sample or in the list of training works."""
    by_artist: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.png")):
        artist = author_of(path).strip().casefold()
        if artist and not any(name in artist for name in KNOWN_OTHERWISE):
            by_artist.setdefault(artist, []).append(path.relative_to(folder).with_suffix("").as_posix())
    trained = set(LIST.read_text(encoding="utf-8").split())
    return {
        artist: names
        for artist, names in by_artist.items()
        if not by_sample_artist(artist) and not trained.intersection(names)
    }


def make(unpacked: Path, digits: Path, out: Path) -> list[Foreign]:
    """Write all images and `manifest.csv` to `out`; return the rows."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = [*_write_photographs(unpacked, out), *_write_strangers(unpacked, out), *_write_digits(digits, out)]
    with (out / "manifest.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Foreign)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return rows


def _write_photographs(unpacked: Path, out: Path) -> Iterator[Foreign]:
    for name, path, author, terms, source in photographs(unpacked):
        with Image.open(path) as image:
            photograph = image.convert("RGB")
        for number, place in enumerate(PHOTO_WINDOWS):
            shown = window(photograph, *place)
            yield _write(out, f"photo-{name.lower()}-{number}", shown, "photo", name, author, terms, source)


def _write_strangers(unpacked: Path, out: Path) -> Iterator[Foreign]:
    folder = unpacked / "usr/share/openclipart/png"
    by_artist = strangers(folder)
    seen: set[bytes] = set()
    for artist in sorted(by_artist):
        names = sorted(by_artist[artist], key=lambda name: sha256_hex(name.encode()))[:WORKS_PER_ARTIST]
        for work in (work for name in names for work in read_work(folder, name)):
            if work.image.tobytes() not in seen:
                seen.add(work.image.tobytes())
                stem = f"stranger-{re.sub('[^a-z0-9]+', '-', work.name.lower())}"
                source = "Open Clip Art Library 0.18"
                yield _write(out, stem, work.image, "stranger", artist, work.artist, "CC-PDM-1.0", source)


def _write_digits(digits: Path, out: Path) -> Iterator[Foreign]:
    with np.load(digits) as data:
        images, labels = data["images"], data["labels"]
    for number in range(DIGITS):
        digit = ImageOps.invert(Image.fromarray(images[-1 - number])).convert("RGB")
        shown = digit.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        stem = f"digit-{number:02}-{labels[-1 - number]}"
        yield _write(out, stem, shown, "digit", stem, "Yann LeCun and others", "CC-BY-SA-3.0", "MNIST")


def _write(
    out: Path, stem: str, image: Image.Image, kind: str, group: str, author: str, terms: str, source: str
) -> Foreign:
    data = encode(image)
    name = f"images/{stem}.webp"
    (out / name).write_bytes(data)
    return Foreign(name, kind, group, split_of(group), author, terms, source, sha256_hex(data))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.images.make_foreign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--unpacked", type=Path, required=True, help="folder of the unpacked Debian packages")
    parser.add_argument("--digits", type=Path, required=True, help="MNIST as .npz with `images` and `labels`")
    parser.add_argument("--out", type=Path, default=Path("examples/foreign"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    rows = make(options.unpacked, options.digits, options.out)
    counts = {kind: sum(row.kind == kind for row in rows) for kind in ("photo", "stranger", "digit")}
    print(f"wrote {counts} to {options.out}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
