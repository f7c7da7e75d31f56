"""Fits the heads of profile `lite` and pins them.

    apt-get update && apt-get download openclipart-png
    dpkg -x openclipart-png_*_all.deb unpacked
    python -m evaluation.training.fit_lite --images unpacked/usr/share/openclipart/png

reads the works of `openclipart-training.txt`, fits both projections and the quality head, and writes
`lite.safetensors` with `lite.json`, the profile's identity, beside it. A refit is another profile: indexes built with
the old one are refused.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from evaluation.training.projections import Projection, fit_invariance, fit_whitening
from evaluation.training.quality_head import fit_quality, make_examples
from evaluation.training.variants import view
from evaluation.training.works import LIST, Work, read_works
from gmvaluator.ids import sha256_hex
from gmvaluator.models.lite import CHUNK_ROWS, HEAD_TENSORS, Backbone, Features, load_backbone, prepare, to_tensor
from gmvaluator.models.memory import raise_malloc_thresholds
from gmvaluator.models.registry import DATA
from gmvaluator.profile import ProfileIdentity

RECALL_DIM = 512
PERCEPTUAL_DIM = 384
VIEWS = 4
SHRINKAGE = 0.3
"""See `fit_invariance`; between 0.03 and 1 the figures hardly differ."""

BACKBONE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def identity_of(heads_sha256: str) -> ProfileIdentity:
    """Identity of profile `lite` with these heads."""
    return ProfileIdentity(
        name="lite",
        recall_model="tf_efficientnet_lite0/pooled/whitened-512",
        perceptual_model="tf_efficientnet_lite0/stages-3-5-7/invariant-384",
        quality_model="tf_efficientnet_lite0/texture/mlp-64",
        recall_dim=RECALL_DIM,
        perceptual_dim=PERCEPTUAL_DIM,
        precision="fp32",
        weights={"backbone": BACKBONE_SHA256, "heads": heads_sha256},
    )


def fit(works: Sequence[Work], backbone: Backbone, copies: int, seed: int) -> dict[str, Tensor]:
    """All tensors of `HEAD_TENSORS`, from the works alone."""
    seen = [features_of(backbone, [work.image, *_views(work, seed)]) for work in works]
    pooled = np.stack([one.pooled.numpy() for one in seen])
    layout = np.stack([one.layout.numpy() for one in seen])
    recall = fit_whitening(pooled[:, 0], RECALL_DIM)
    perceptual = fit_invariance(layout[:, 0], layout[:, 1:], PERCEPTUAL_DIM, SHRINKAGE)
    examples = make_examples(works, copies, lambda images: features_of(backbone, images).texture, seed)
    quality = fit_quality(examples, seed)
    return {**_named("recall", recall), **_named("perceptual", perceptual), **quality}


def _views(work: Work, seed: int) -> list[Image.Image]:
    rng = random.Random(f"{seed}/view/{work.name}")  # noqa: S311 - must be reproducible
    return [view(work.image, rng) for _ in range(VIEWS)]


def features_of(backbone: Backbone, images: Sequence[Image.Image]) -> Features:
    """Features of RGB images, in passes of the size the product uses."""
    inputs = np.stack([prepare(image) for image in images])
    with torch.inference_mode():
        passes = [
            backbone(to_tensor(inputs[row : row + CHUNK_ROWS], torch.device("cpu")))
            for row in range(0, len(inputs), CHUNK_ROWS)
        ]
    return Features(
        *(torch.cat([getattr(one, name) for one in passes]) for name in ("pooled", "layout", "texture")),
    )


def _named(head: str, projection: Projection) -> dict[str, Tensor]:
    return {
        f"{head}_shift": torch.from_numpy(projection.shift),
        f"{head}_projection": torch.from_numpy(projection.matrix),
    }


def write(tensors: dict[str, Tensor], out: Path) -> ProfileIdentity:
    """Write the heads and, beside them, the identity that pins them."""
    data = safetensors.torch.save({name: tensors[name].contiguous() for name in HEAD_TENSORS})
    identity = identity_of(sha256_hex(data))
    out.write_bytes(data)
    text = json.dumps(identity.as_dict(), indent=2, sort_keys=True)
    out.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
    return identity


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.training.fit_lite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="the package's folder of PNG files")
    parser.add_argument("--list", type=Path, default=LIST, help="paths without ending, one a line (default: ours)")
    parser.add_argument("--out", type=Path, default=DATA / "lite.safetensors", help="default: where it is shipped")
    parser.add_argument("--copies", type=int, default=2, help="clean variants of each work for the quality head")
    parser.add_argument("--seed", type=int, default=20240601)
    options = parser.parse_args(arguments)
    raise_malloc_thresholds()
    backbone = load_backbone(identity_of(""))
    identity = write(fit(read_works(options.images, options.list), backbone, options.copies, options.seed), options.out)
    print(f"wrote {options.out}, profile hash {identity.hash}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
