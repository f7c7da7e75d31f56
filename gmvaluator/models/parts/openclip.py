"""CLIP's image tower by open_clip: any architecture and tag it lists, or a checkpoint of one of its architectures."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gmvaluator.errors import InvalidInput, UnknownModel
from gmvaluator.models.parts.part import Part, WeightFile

RECALL_ROLE = "recall"
_OPENCLIP_LICENCES = {
    "laion": "MIT (model card)",
    "datacomp": "MIT (model card)",
    "commonpool": "MIT (model card)",
    "openai": "MIT (github.com/openai/CLIP; its model card rules out deployed use)",
}


def openclip_part(choice: str) -> Part:
    """choice: "ARCHITECTURE:TAG" or "ARCHITECTURE:/path/to/checkpoint". Raises InvalidInput, UnknownModel."""
    architecture, separator, weights = choice.partition(":")
    if not separator or not weights:
        raise InvalidInput(
            f"--recall {choice!r} names no weights: give ARCHITECTURE:TAG or ARCHITECTURE:/path/to/checkpoint, "
            "for example ViT-B-32:laion2b_s34b_b79k, or vgg16"
        )
    settings = {"architecture": architecture, "tag": "" if _is_path(weights) else weights}
    file = _local_file(weights) if _is_path(weights) else _tagged_file(architecture, weights)
    model = f"open_clip {architecture} {settings['tag'] or 'local checkpoint'}"
    return Part(
        model,
        "gmvaluator.models.openclip",
        "gmvaluator.models.openclip_transform",
        _dimension(architecture),
        (file,),
        settings,
    )


def _is_path(weights: str) -> bool:
    return "/" in weights or "\\" in weights or Path(weights).suffix in {".pt", ".pth", ".bin", ".safetensors"}


def _local_file(path: str) -> WeightFile:
    return WeightFile(RECALL_ROLE, str(Path(path).expanduser().absolute()), "local", path, "the operator's own", 0)


def _tagged_file(architecture: str, tag: str) -> WeightFile:
    licence = next(
        (text for start, text in _OPENCLIP_LICENCES.items() if tag.startswith(start)), "see the tag's model card"
    )
    path = f"open_clip/{architecture}/{tag}.safetensors"
    return WeightFile(
        RECALL_ROLE, path, "open_clip", f"{architecture}:{tag}", licence, 605 if "B-32" in architecture else 0
    )


def _dimension(architecture: str) -> int:
    folder = _configurations()
    path = folder / f"{architecture}.json"
    if "/" in architecture or not path.is_file():
        known = ", ".join(sorted(one.stem for one in folder.glob("*.json")))
        raise UnknownModel(f"open_clip has no architecture {architecture!r}; known: {known}")
    configuration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return int(configuration["embed_dim"])


def _configurations() -> Path:
    """Folder of open_clip's architectures, found without importing it."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model_configs"
