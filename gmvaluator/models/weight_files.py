"""The models folder: weight files, their recorded SHA-256, and fetching them from their publishers.

Where a publisher names no hash, the first fetch of a file is trusted and recorded; from then on only the recorded
bytes are loaded. Fetching uses the packages' own loaders. Only `gmvaluator models fetch` calls it: loading a profile
reads local files only. This module imports no torch, so that a profile's identity can be read without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmvaluator.errors import GmvaluatorError, MissingWeights, Unavailable
from gmvaluator.files import atomic_write
from gmvaluator.ids import sha256_hex
from gmvaluator.models.specs import Fetcher, WeightFile

RECORD_FILE = "gmvaluator-weights.json"
"""Name of the record in the models folder."""


@dataclass(frozen=True, slots=True)
class ModelsFolder:
    """A folder of weight files, and the record of their hashes that is kept in it."""

    root: Path

    def path(self, file: WeightFile) -> Path:
        """Return the path of `file`, whether or not it exists."""
        return self.root.expanduser() / file.path

    def recorded_sha256(self, file: WeightFile) -> str:
        """Return the SHA-256 that `file` must have: the recorded one, or for the operator's own file its present one.

        Raises MissingWeights if the file is absent or was never recorded.
        """
        path = self.path(file)
        if not path.is_file():
            raise MissingWeights(f"weights {path} do not exist: {_remedy(file, self.root)}")
        if file.is_local:
            return file_sha256(path)
        entry = self._record().get(file.path)
        if entry is None:
            raise MissingWeights(
                f"weights {path} are not in the record of {self.root}: run `gmvaluator models fetch` for this profile, "
                "which records files that are already there"
            )
        return str(entry["sha256"])

    def known_sha256(self, file: WeightFile) -> str:
        """Return the recorded hash of `file`, or its publisher's; empty if neither exists."""
        if file.is_local and self.path(file).is_file():
            return file_sha256(self.path(file))
        return str(self._record().get(file.path, {}).get("sha256", "")) or file.sha256

    def verified(self, file: WeightFile, sha256: str) -> Path:
        """Return the path of `file` after checking its bytes against `sha256`. Raises MissingWeights."""
        path = self.path(file)
        if not path.is_file():
            raise MissingWeights(f"weights {path} do not exist: {_remedy(file, self.root)}")
        actual = file_sha256(path)
        if actual != sha256:
            raise MissingWeights(
                f"weights {path} have SHA-256 {actual}, not the recorded {sha256}: delete the file and run "
                "`gmvaluator models fetch`"
            )
        return path

    def record(self, files: Iterable[WeightFile]) -> None:
        """Record the present hashes of `files`. Raises MissingWeights if one differs from its known hash."""
        record = self._record()
        for file in files:
            path = self.path(file)
            # The operator may change a file of their own: its hash is read each time, not recorded.
            if file.is_local:
                continue
            actual = file_sha256(path)
            known = str(record.get(file.path, {}).get("sha256", "")) or file.sha256
            # Some publishers name only the first digits.
            if not actual.startswith(known):
                raise MissingWeights(f"weights {path} have SHA-256 {actual}, expected {known}: delete the file")
            record[file.path] = {"sha256": actual, "bytes": path.stat().st_size, "origin": file.origin}
        self._write(record)

    def _record(self) -> dict[str, dict[str, Any]]:
        path = self.root.expanduser() / RECORD_FILE
        try:
            files: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["files"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MissingWeights(f"the record {path} cannot be read ({error}): restore it or fetch again") from error
        return files

    def _write(self, record: dict[str, dict[str, Any]]) -> None:
        path = self.root.expanduser() / RECORD_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        # Durable: without its record, the first fetch of a file would be trusted a second time.
        atomic_write(path, json.dumps({"files": dict(sorted(record.items()))}, indent=2) + "\n")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pinned(path: Path, sha256: str, remedy: str) -> bytes:
    """Return the bytes of `path` if they have the pinned hash; the bytes checked are the bytes returned.

    remedy: ends the error's message. Raises MissingWeights if the file is absent or differs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingWeights(f"weights {path} cannot be read ({error.strerror}): {remedy}") from error
    actual = sha256_hex(data)
    if actual != sha256:
        raise MissingWeights(f"weights {path} have SHA-256 {actual}, not the pinned {sha256}: {remedy}")
    return data


def fetch(file: WeightFile, folder: ModelsFolder) -> bool:
    """Download `file` into `folder` unless it is there, and record it; return True if it was downloaded.

    A file that exists is only recorded, so a folder that was filled by hand needs no network. Raises Unavailable if
    its publisher cannot be reached, MissingWeights if its bytes differ from the known ones.
    """
    path = folder.path(file)
    missing = not path.is_file()
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(file, path)
    folder.record([file])
    return missing


def _download(file: WeightFile, path: Path) -> None:
    try:
        # The loaders print progress on stdout, which is for data.
        with contextlib.redirect_stdout(sys.stderr):
            _FETCHERS[file.fetcher](file, path)
    except GmvaluatorError:
        raise
    except Exception as error:
        # The hubs' clients raise the exceptions of their own network libraries, which have no common base.
        raise Unavailable(
            f"{file.role} could not be fetched from {file.origin} ({type(error).__name__}: {error}): try again with a "
            f"connection, or put the file at {path} and run `gmvaluator models fetch`"
        ) from error
    if not path.is_file():
        raise Unavailable(f"{file.origin} was fetched, but has no {path.name}: the publisher changed it")


def _fetch_url(file: WeightFile, path: Path) -> None:
    import torch

    torch.hub.download_url_to_file(file.origin, str(path), hash_prefix=file.sha256 or None)


def _fetch_open_clip(file: WeightFile, path: Path) -> None:
    """Download through open_clip's loader; convert what its hub has only as a pickle to safetensors."""
    import open_clip
    import safetensors.torch
    from open_clip.factory import load_state_dict
    from open_clip.pretrained import download_pretrained

    architecture, _, tag = file.origin.partition(":")
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        fetched = Path(download_pretrained(open_clip.get_pretrained_cfg(architecture, tag), cache_dir=cache))
        if fetched.suffix == ".safetensors":
            fetched.resolve().replace(path)
            return
        # `weights_only` unpickles tensors without running code that the file may hold.
        tensors = load_state_dict(str(fetched), weights_only=True)
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _fetch_dreamsim(file: WeightFile, path: Path) -> None:
    """Download the package's whole archive of this DreamSim type; it has no smaller unit."""
    from dreamsim.model import download_weights

    from gmvaluator.models.known_models import DREAMSIM_FOLDER

    cache = next(parent for parent in path.parents if parent.name == DREAMSIM_FOLDER)
    download_weights(str(cache), file.origin)
    (cache / "pretrained.zip").unlink(missing_ok=True)


def _refuse_local(file: WeightFile, path: Path) -> None:
    raise Unavailable(f"weights {path} do not exist: give the path of a checkpoint that does ({file.origin})")


_FETCHERS: dict[Fetcher, Callable[[WeightFile, Path], None]] = {
    "url": _fetch_url,
    "open_clip": _fetch_open_clip,
    "dreamsim": _fetch_dreamsim,
    "local": _refuse_local,
}


def _remedy(file: WeightFile, root: Path) -> str:
    if file.is_local:
        return "give the path of a checkpoint that exists"
    return f"run `gmvaluator models fetch`, or put the file there ({file.origin}); the models folder is {root}"
