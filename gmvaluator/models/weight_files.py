"""The models folder: weight files, and a record of the SHA-256 each had when it came.

A file's first fetch is trusted where its publisher names no hash; from then on only the recorded bytes are loaded.

Weight files from where they are published, through the packages' own loaders, into the models folder.

Only `gmvaluator models fetch` comes here: loading reads local files, and nothing here runs code that was fetched.

Checkpoints: safetensors, or PyTorch's own format, read without running what it may hold.

Weight files are read once, checked against a pinned SHA-256, and only then parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from gmvaluator.errors import GmvaluatorError, MissingWeights, Unavailable
from gmvaluator.ids import sha256_hex
from gmvaluator.models.specs import WeightFile

RECORD_FILE = "gmvaluator-weights.json"


@dataclass(frozen=True, slots=True)
class ModelsFolder:
    """Weight files below `root`, by the record kept beside them."""

    root: Path

    def path(self, file: WeightFile) -> Path:
        """Where `file` lies or has to lie."""
        return self.root.expanduser() / file.path

    def recorded_sha256(self, file: WeightFile) -> str:
        """SHA-256 that `file` must have: the recorded one, for the operator's own file the one it has.

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
        """What is recorded of `file`, or what its publisher says; empty if nothing is known."""
        if file.is_local and self.path(file).is_file():
            return file_sha256(self.path(file))
        return str(self._record().get(file.path, {}).get("sha256", "")) or file.sha256

    def verified(self, file: WeightFile, sha256: str) -> Path:
        """Path of `file` once its bytes were found to be the expected ones. Raises MissingWeights."""
        path = self.path(file)
        if not path.is_file():
            raise MissingWeights(f"weights {path} do not exist: {_remedy(file, self.root)}")
        found = file_sha256(path)
        if found != sha256:
            raise MissingWeights(
                f"weights {path} have SHA-256 {found}, not the recorded {sha256}: delete the file and run "
                "`gmvaluator models fetch`"
            )
        return path

    def record(self, files: Iterable[WeightFile]) -> None:
        """Remember the hashes that `files` have now. Raises MissingWeights if one differs from what is known of it."""
        record = self._record()
        for file in files:
            path = self.path(file)
            if file.is_local:
                continue
            found = file_sha256(path)
            known = str(record.get(file.path, {}).get("sha256", "")) or file.sha256
            if not found.startswith(known):
                raise MissingWeights(f"weights {path} have SHA-256 {found}, expected {known}: delete the file")
            record[file.path] = {"sha256": found, "bytes": path.stat().st_size, "origin": file.origin}
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
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"files": dict(sorted(record.items()))}, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits; constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remedy(file: WeightFile, root: Path) -> str:
    if file.is_local:
        return "give the path of a checkpoint that exists"
    return f"run `gmvaluator models fetch`, or put the file there ({file.origin}); the models folder is {root}"


def fetch(file: WeightFile, folder: ModelsFolder) -> bool:
    """Have `file` in `folder` and in its record; answers whether it had to be fetched.

    A file that is there already is only recorded, so a folder that was filled by hand needs no network. Raises
    Unavailable if its publisher cannot be reached, MissingWeights if its bytes are not the ones that are known.
    """
    path = folder.path(file)
    missing = not path.is_file()
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, path)
    folder.record([file])
    return missing


def _fetch(file: WeightFile, path: Path) -> None:
    try:
        # The loaders print where they please; stdout is for data.
        with contextlib.redirect_stdout(sys.stderr):
            _FETCHERS[file.fetcher](file, path)
    except GmvaluatorError:
        raise
    except Exception as error:
        # Hub clients raise whatever their own network library does.
        raise Unavailable(
            f"{file.role} could not be fetched from {file.origin} ({type(error).__name__}: {error}): try again with a "
            f"connection, or put the file at {path} and run `gmvaluator models fetch`"
        ) from error
    if not path.is_file():
        raise Unavailable(f"{file.origin} was fetched, but has no {path.name}: the publisher changed it")


def _by_url(file: WeightFile, path: Path) -> None:
    import torch

    torch.hub.download_url_to_file(file.origin, str(path), hash_prefix=file.sha256 or None)


def _by_open_clip(file: WeightFile, path: Path) -> None:
    """open_clip's loader; what its hub has only as a pickle is kept as safetensors, read without running any code."""
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
        tensors = load_state_dict(str(fetched), weights_only=True)
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _by_dreamsim(file: WeightFile, path: Path) -> None:
    """The package's own download, of the whole archive of this type."""
    from dreamsim.model import download_weights

    from gmvaluator.models.known_models import FOLDER

    cache = next(parent for parent in path.parents if parent.name == FOLDER)
    download_weights(str(cache), file.origin)
    (cache / "pretrained.zip").unlink(missing_ok=True)


def _own(file: WeightFile, path: Path) -> None:
    raise Unavailable(f"weights {path} do not exist: give the path of a checkpoint that does ({file.origin})")


_FETCHERS: dict[str, Callable[[WeightFile, Path], None]] = {
    "url": _by_url,
    "open_clip": _by_open_clip,
    "dreamsim": _by_dreamsim,
    "local": _own,
}

_WRAPPERS = ("params", "state_dict", "model")
_PARALLEL = "module."


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, out of the wrapper some packages put around them. Raises MissingWeights."""
    value = read_plain(path)
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not all(isinstance(one, Tensor) for one in value.values()):
        raise MissingWeights(f"weights {path} are no dictionary of tensors: give the package's own checkpoint")
    return {str(name).removeprefix(_PARALLEL): tensor for name, tensor in value.items()}


def read_plain(path: Path) -> Any:
    """Whatever of tensors and plain values the file holds. Raises MissingWeights if there is code in it, or damage."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        safetensors.SafetensorError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        raise MissingWeights(
            f"weights {path} are damaged or hold more than tensors: nothing of them was loaded ({error})"[:500]
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `network` its weights. Raises MissingWeights, naming the first tensor that does not fit, and both shapes."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is absent"
            raise MissingWeights(
                f"weights {path} are of another architecture: {name} {found} there, and has shape "
                f"{tuple(tensor.shape)} in {type(network).__name__}"
            )
    network.load_state_dict({name: tensors[name] for name in wanted})


def fill_exactly(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """As `fill`, and nothing may be left over. Raises MissingWeights."""
    surplus = sorted(tensors.keys() - network.state_dict().keys())
    if surplus:
        raise MissingWeights(
            f"weights {path} are of another architecture: {type(network).__name__} has no {surplus[0]}"
        )
    fill(network, tensors, path)


def read_pinned(path: Path, sha256: str, remedy: str) -> bytes:
    """Bytes of `path` if they are the pinned ones; the bytes checked are the bytes returned.

    remedy: what the reader of the error should do. Raises MissingWeights if the file is absent or differs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingWeights(f"weights {path} cannot be read ({error.strerror}): {remedy}") from error
    found = sha256_hex(data)
    if found != sha256:
        raise MissingWeights(f"weights {path} have SHA-256 {found}, not the pinned {sha256}: {remedy}")
    return data
