"""The models folder: weight files, and a record of the SHA-256 each had when it came.

A file's first fetch is trusted where its publisher names no hash; from then on only the recorded bytes are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmvaluator.errors import MissingWeights
from gmvaluator.models.parts.part import WeightFile

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
