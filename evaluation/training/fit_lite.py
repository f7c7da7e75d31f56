"""Train the weights of profile `lite`: adapt the backbone, fit the heads and pin both.

    apt-get update && apt-get download openclipart-png
    dpkg -x openclipart-png_*_all.deb unpacked
    python -m evaluation.training.fit_lite --images unpacked/usr/share/openclipart/png --work training

This reads the works of `openclipart-training.txt` and those of the fit artists, trains, and writes
`lite-backbone.safetensors` and `lite.safetensors` with `lite.json`, the profile's identity. Checkpoints are kept in the
folder of `--work`, from which a killed run resumes. A refit is another profile: indexes built with the old one are
refused. The training curve is written as one CSV file and its plot.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from evaluation.images.works import Work, as_input, distinct, make_pool, read_fit_works, read_works
from evaluation.report.plots import draw
from evaluation.training.adapt import Stage, Training, Watch
from evaluation.training.embedder import Embedder, load_published
from evaluation.training.quality_head import fit_quality, held_out, make_examples
from evaluation.training.validation import make_validation
from gmvaluator.ids import sha256_hex
from gmvaluator.models.lite import CHUNK_ROWS, EMBEDDING_DIM, PERCEPTUAL_DIM
from gmvaluator.models.lite_network import Backbone
from gmvaluator.models.lite_views import (
    BLUR_WEIGHT,
    GRID,
    MIN_CONTRAST,
    VIEWS,
    WINDOW_SHARE,
    WINDOW_WEIGHT,
    prepare,
)
from gmvaluator.models.lite_weights import BACKBONE_FILE, BLUR_SIGMA_PX, HEAD_TENSORS, HEADS_FILE
from gmvaluator.models.process_setup import raise_malloc_thresholds
from gmvaluator.models.specs import DATA
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_curve(curves: Mapping[str, Sequence[Watch]], folder: Path) -> None:
    """Write the training curves to `lite-training.csv` and `lite-training.svg`, the stages one after the other."""
    with (folder / "lite-training.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, ["stage", *(field.name for field in fields(Watch))], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"stage": stage, **asdict(watch)} for stage, watches in curves.items() for watch in watches)
    (folder / "lite-training.svg").write_text(draw(lambda axes: _paint(curves, axes)), encoding="utf-8")


def _paint(curves: Mapping[str, Sequence[Watch]], axes: Axes) -> None:
    steps, before = [], 0
    for watches in curves.values():
        steps += [before + watch.step for watch in watches]
        before += watches[-1].step
        axes.axvline(before, color="#6b6f76", linewidth=0.8)
    watches = [watch for stage in curves.values() for watch in stage]
    axes.plot(steps, [watch.source_first for watch in watches], label="source first")
    axes.plot(steps, [watch.credit for watch in watches], label="credit to the source")
    axes.plot(steps, [watch.absent_auc for watch in watches], label="AUC, source present or absent")
    axes.set_xlabel("steps of 96 works")
    axes.set_ylabel("on the validation artists")
    axes.legend()


TRAINED_PX = 160
"""Side of what the backbone is trained on; the product's input is larger, which served better in validation."""

STAGES = (
    Stage("coarse", seed=1, steps=600, stop=520, entropy_weight=1.0, recipe_share=0.0, source_px=TRAINED_PX),
    Stage("fine", seed=2, steps=300, stop=120, entropy_weight=4.0, recipe_share=0.5, source_px=256),
)
"""Each begins with the averaged weights that the one before ended with."""

VALIDATION_SEED = 1
POOL_SEED = 1


def identity_of(backbone_sha256: str, heads_sha256: str) -> ProfileIdentity:
    """Return the identity of profile `lite` with these weights."""
    embedding = "tf_efficientnet_lite0/stages-3-5-7-last/adapted-2"
    windows = f"{GRID}x{GRID}-windows-{WINDOW_SHARE}-contrast-{MIN_CONTRAST}-weigh-{WINDOW_WEIGHT}"
    views = f"{windows}/blur-{BLUR_SIGMA_PX}-weighs-{BLUR_WEIGHT}"
    return ProfileIdentity(
        name="lite",
        recall_model=embedding,
        perceptual_model=f"{embedding}/{views}",
        quality_model="tf_efficientnet_lite0/adapted-2/texture/mlp-64",
        recall_dim=EMBEDDING_DIM,
        perceptual_dim=PERCEPTUAL_DIM,
        precision="fp32",
        weights={"backbone": backbone_sha256, "heads": heads_sha256},
        perceptual_views=VIEWS,
    )


def adapt(works: Sequence[Work], folder: Path) -> tuple[Embedder, dict[str, list[Watch]]]:
    """Train the embedder; return it and the curve of each stage. Artists that are held out serve validation alone."""
    trained = [work for work in works if not held_out(work.artist)]
    held = [work for work in works if held_out(work.artist)]
    validation = make_validation(held, trained, TRAINED_PX, VALIDATION_SEED)
    inputs = _stacked(trained, TRAINED_PX)
    pool = make_pool(trained, TRAINED_PX, POOL_SEED)
    embedder = Embedder(load_published())
    embedder.start_head(inputs)
    curves = {}
    for stage in STAGES:
        large = _stacked(trained, stage.source_px)
        training = Training(stage, embedder, inputs, large, pool, validation, folder)
        training.resume()
        training.run()
        embedder, curves[stage.name] = training.average, training.curve
    return embedder, curves


def _stacked(works: Sequence[Work], side_px: int) -> Tensor:
    return torch.from_numpy(np.stack([as_input(work.image, side_px) for work in works]))


def texture_of(backbone: Backbone, images: Sequence[Image.Image]) -> Tensor:
    """Return the texture features (N, 1024) of N RGB images, in batches of the size that the product uses."""
    inputs = np.stack([prepare(image) for image in images])
    with torch.inference_mode():
        passes = [
            backbone(torch.from_numpy(inputs[row : row + CHUNK_ROWS]).to(memory_format=torch.channels_last))[1]
            for row in range(0, len(inputs), CHUNK_ROWS)
        ]
    return torch.cat(passes)


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the kernels to float16; keep the small tensors of the norms as they are."""
    return {name: (value.half() if value.ndim == 4 else value).contiguous() for name, value in state.items()}


def write_pinned(backbone: dict[str, Tensor], heads: dict[str, Tensor], out: Path) -> ProfileIdentity:
    """Write both files and, next to them, the identity that pins them."""
    backbone_data = safetensors.torch.save(backbone)
    heads_data = safetensors.torch.save({name: heads[name].contiguous() for name in HEAD_TENSORS})
    identity = identity_of(sha256_hex(backbone_data), sha256_hex(heads_data))
    (out / BACKBONE_FILE).write_bytes(backbone_data)
    (out / HEADS_FILE).write_bytes(heads_data)
    text = json.dumps(identity.as_dict(), indent=2, sort_keys=True)
    (out / "lite.json").write_text(f"{text}\n", encoding="utf-8")
    return identity


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.training.fit_lite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="the package's folder of PNG files")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and curves")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the weights; default: where they are shipped")
    parser.add_argument("--copies", type=int, default=2, help="clean variants of each work for the quality head")
    parser.add_argument("--seed", type=int, default=20240601, help="of the quality head")
    options = parser.parse_args(arguments)
    raise_malloc_thresholds()
    options.work.mkdir(parents=True, exist_ok=True)
    listed = read_works(options.images)
    embedder, curves = adapt(distinct([*listed, *read_fit_works(options.images)]), options.work)
    write_curve(curves, options.work)
    state = half_precision(embedder.published_state())
    backbone = Backbone(state)
    examples = make_examples(listed, options.copies, lambda images: texture_of(backbone, images), options.seed)
    heads = {**embedder.head_tensors(), **fit_quality(examples, options.seed)}
    identity = write_pinned(state, heads, options.out)
    print(f"wrote {options.out}, profile hash {identity.hash}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
