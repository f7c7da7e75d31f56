"""Weight files from where they are published, through the packages' own loaders, into the models folder.

Only `gmvaluator models fetch` comes here: loading reads local files, and nothing here runs code that was fetched.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gmvaluator.errors import GmvaluatorError, Unavailable
from gmvaluator.models.folder import ModelsFolder
from gmvaluator.models.parts.part import WeightFile


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

    from gmvaluator.models.parts.dreamsim import FOLDER

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
