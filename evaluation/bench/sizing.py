"""Bytes and operations that `gmvaluator plan` multiplies, measured: `python -m evaluation.bench.sizing [FILE]`.

Bytes per point are the difference between a larger and a smaller index, which excludes what an engine allocates in
advance.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.images import decode_image, thumbnail
from gmvaluator.index.opening import open_store
from gmvaluator.index.schema import (
    ALONE,
    KEY_DATA_SET,
    KEY_GROUP,
    KEY_KEY,
    KEY_LABELS,
    KEY_SHA256,
    KEY_TITLE,
    KEY_URI,
)
from gmvaluator.index.store import QdrantStore
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.ports import Point
from gmvaluator.profile import ProfileIdentity
from gmvaluator.report import report
from gmvaluator.samples import sample_folder
from gmvaluator.testing.postings import sample_posting

SMALL, LARGE = 4_000, 12_000
BATCH = 250
POSTINGS, CONTRIBUTORS = 2_000, 50
WORKS = 5_000
IMAGE = 224
IDENTITY = ProfileIdentity("sizing", "random clusters", "random", "none", 512, 512, "fp32", {}, perceptual_views=10)
"""A profile with the dimensions and views of `lite`."""

PARTS = ("graph", "codes", "recall", "perceptual", "payload", "ids")


def main() -> None:
    """Print the report, or write it to the file named on the command line."""
    figures = {**index_figures(SMALL, LARGE), **ledger_figures(), **catalogue_figures(), **thumbnail_figures()}
    figures |= operations()
    text = json.dumps(report(figures, shlex.join(["python", "-m", "evaluation.bench.sizing"])), indent=2)
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)  # noqa: T201 - its output


def index_figures(small: int, large: int) -> dict[str, float]:
    """Return the bytes per point by part of the index, and the rates of writing and building."""
    # The engine ends after its last user has left, and may still close a file then.
    with tempfile.TemporaryDirectory(prefix="sizing-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with closing(open_store(folder)) as store:
            store.create(IDENTITY)
            _upsert(store, 0, small)
            store.build()
            first = _bytes_by_part(folder)
            started = time.monotonic()
            _upsert(store, small, large)
            written_s = time.monotonic() - started
            started = time.monotonic()
            store.build()
            built_s = time.monotonic() - started
            second = _bytes_by_part(folder)
    points = large - small
    by_part = {f"{part}_bytes_per_point": (second[part] - first[part]) / points for part in PARTS}
    return {
        "small_index_points": small,
        "large_index_points": large,
        "recall_dim": IDENTITY.recall_dim,
        "perceptual_dim": IDENTITY.perceptual_dim,
        "perceptual_views": IDENTITY.perceptual_views,
        **by_part,
        "upsert_points_per_s": points / written_s,
        "build_points_per_s": large / built_s,
    }


def _upsert(store: QdrantStore, start: int, end: int) -> None:
    for begin in range(start, end, BATCH):
        store.upsert(_points(begin, min(BATCH, end - begin)))


def _points(start: int, count: int) -> list[Point]:
    """Return points around 200 centres, with the payload of an indexed image."""
    centres = np.random.default_rng(0).normal(size=(200, IDENTITY.recall_dim))
    random = np.random.default_rng(start + 1)
    recall = centres[random.integers(len(centres), size=count)] + random.normal(size=(count, IDENTITY.recall_dim))
    perceptual = random.normal(size=(count, IDENTITY.perceptual_views, IDENTITY.perceptual_dim))
    recall /= np.linalg.norm(recall, axis=-1, keepdims=True)
    perceptual /= np.linalg.norm(perceptual, axis=-1, keepdims=True)
    return [
        Point(training_image_id(sha), recall[i].astype(np.float32), perceptual[i].astype(np.float32), _payload(sha))
        for i, sha in enumerate(sha256_hex(str(start + i).encode()) for i in range(count))
    ]


def _payload(sha: str) -> dict[str, object]:
    return {
        KEY_SHA256: sha,
        KEY_KEY: f"shard-{sha[:5]}/{sha[:16]}",
        KEY_URI: f"s3://pictures/shards/{sha[:5]}.tar#{sha[:16]}.jpg",
        KEY_TITLE: "a watercolour of a harbour with three sailing boats at dawn",
        KEY_LABELS: ["watercolour", "harbour", "boats"],
        KEY_DATA_SET: ["pictures"],
        KEY_GROUP: ALONE,
    }


def _bytes_by_part(folder: Path) -> Counter[str]:
    """Return the bytes of the served generation by part; "other" is the write-ahead log and settings."""
    collection = folder / "works"
    generation = collection / (collection / "CURRENT").read_text(encoding="utf-8").strip()
    sizes: Counter[str] = Counter()
    for path in generation.rglob("*"):
        if path.is_file():
            # Files are allocated in advance; only what was written to them counts.
            status = path.stat()
            sizes[_part(path.relative_to(generation).as_posix())] += min(status.st_size, 512 * status.st_blocks)
    return sizes


def _part(path: str) -> str:
    marks = (
        ("quantized", "codes"),
        ("vector_index-", "graph"),
        ("vector_storage-recall", "recall"),
        ("vector_storage-perceptual", "perceptual"),
        ("payload_", "payload"),
        ("id_tracker", "ids"),
    )
    return next((part for mark, part in marks if mark in path), "other")


def ledger_figures() -> dict[str, float]:
    """Return the bytes of SQLite per posting of fifty contributors, with evidence and hash chain."""
    with tempfile.TemporaryDirectory(prefix="sizing-") as name:
        folder = Path(name)
        sizes = []
        for start in (0, POSTINGS):
            with open_ledger(folder, write=True) as ledger:
                for number in range(start, start + POSTINGS, 100):
                    ledger.post(
                        [sample_posting(posting, contributors=CONTRIBUTORS) for posting in range(number, number + 100)]
                    )
            sizes.append(ledger_file(folder).stat().st_size)
    return {"ledger_bytes_per_posting": (sizes[1] - sizes[0]) / POSTINGS, "contributors": CONTRIBUTORS}


def catalogue_figures() -> dict[str, float]:
    """Return the bytes of SQLite per work with one owner's claim."""
    with tempfile.TemporaryDirectory(prefix="sizing-") as name:
        folder = Path(name)
        sizes = []
        for start in (0, WORKS):
            with open_catalogue(folder, write=True) as catalogue:
                catalogue.record([_work(number) for number in range(start, start + WORKS)])
            sizes.append((folder / "catalogue.sqlite").stat().st_size)
    return {"catalogue_bytes_per_work": (sizes[1] - sizes[0]) / WORKS}


def _work(number: int) -> NewWork:
    sha = sha256_hex(str(number).encode())
    owner = OwnerReference(str(number % 50), f"Owner {number % 50}")
    key, title = f"shard/{sha[:16]}", "a title of a work"
    return NewWork(training_image_id(sha), sha, 512, 512, "pictures", key, title, owner=owner)


def thumbnail_figures() -> dict[str, float]:
    """Return the mean bytes of a thumbnail of the sample's clip art and of photographs."""
    figures = {}
    for name, folder in (("drawing", "openclipart"), ("photograph", "foreign")):
        paths = _images(sample_folder(folder))[:200]
        sizes = [len(thumbnail(decode_image(path.read_bytes()))) for path in paths]
        figures[f"thumbnail_{name}_bytes"] = sum(sizes) / len(sizes)
    return figures


def _images(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".webp", ".jpg", ".png"))


def operations() -> dict[str, float]:
    """Return the floating-point operations of a forward pass on an image of 224 x 224; a multiply-add is two."""
    import open_clip
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not count its fused operation
    vit = open_clip.create_model("ViT-B-32").visual
    networks = {
        "lite": timm.create_model("tf_efficientnet_lite0"),
        "vit_b_32": vit,
        "vit_b_8": timm.create_model("vit_base_patch8_224"),
    }
    figures = {}
    for name, network in networks.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.zeros(1, 3, IMAGE, IMAGE))
        figures[f"{name}_operations"] = float(counter.get_total_flops())
    return figures


if __name__ == "__main__":
    main()
