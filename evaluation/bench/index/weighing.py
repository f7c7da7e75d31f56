"""What a collection takes on disk and in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gmvaluator.index.engine.launcher import Contact
from gmvaluator.index.schema import RECALL

_BLOCK_BYTES = 512


def weights(folder: Path, collection: str = "works") -> dict[str, Any]:
    """Bytes of the built collection in `folder`, of its engine's process, and of one vector's code.

    codes are pinned in memory; the graph is mapped and stays there while it is used; originals are read from disk.
    """
    shard = folder / collection / (folder / collection / "CURRENT").read_text(encoding="ascii").strip()
    codes = [path for path in shard.glob(f"segments/*/vector_storage-{RECALL}/quantized*") if path.is_file()]
    graph = [path for path in shard.glob(f"segments/*/vector_index-{RECALL}/*") if path.is_file()]
    data_bytes = sum(path.stat().st_size for path in codes if path.name == "quantized.data")
    return {
        "code_bytes_per_vector": data_bytes / max(1, _quantised(codes)),
        "codes_bytes": _held(codes),
        "graph_bytes": _held(graph),
        "disk_bytes": _held([path for path in shard.rglob("*") if path.is_file()]),
        "ram_bytes": _held(codes) + _held(graph),
        "engine_anonymous_bytes": _anonymous_bytes(folder),
    }


def _quantised(codes: list[Path]) -> int:
    described = [path.with_name("quantized.meta.json") for path in codes if path.name == "quantized.data"]
    return sum(int(json.loads(path.read_bytes())["vector_parameters"]["count"]) for path in described)


def _held(paths: list[Path]) -> int:
    """Bytes on disk, without holes."""
    return sum(path.stat().st_blocks * _BLOCK_BYTES for path in paths)


def _anonymous_bytes(folder: Path) -> int | None:
    """Memory of the engine that is not a mapped file; None where Linux does not say it, or on a server."""
    contact = Contact.read(folder)
    status = Path(f"/proc/{contact.pid}/status") if contact is not None else None
    if status is None or not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024
