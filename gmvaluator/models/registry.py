"""Profiles by name: one module per model family, imported only when its models are loaded."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from gmvaluator.errors import UnknownProfile
from gmvaluator.ports import Models
from gmvaluator.profile import ProfileIdentity

DATA = Path(__file__).parent / "data"
"""Holds `NAME.json`, a profile's identity with the pinned hash of every weight file, and what we trained."""

_FAMILIES = {"lite": "gmvaluator.models.lite"}


def known_profiles() -> tuple[str, ...]:
    """Names that `load_models` accepts, sorted."""
    return tuple(sorted(_FAMILIES))


def profile_identity(profile: str) -> ProfileIdentity:
    """Identity of a profile, from its pins alone: imports no model code. Raises UnknownProfile."""
    _check_known(profile)
    pins = (DATA / f"{profile}.json").read_text(encoding="utf-8")
    return ProfileIdentity.from_dict(json.loads(pins))


def load_models(profile: str, device: str = "cpu", threads: int | None = None) -> Models:
    """Load a profile's models onto `device`; takes seconds, and reads local files only.

    threads: CPU threads of one forward pass for this process, None for torch's default (all cores). Call it on
    the thread that will call `embed`, after `process.prepare_process`.
    Raises UnknownProfile, MissingWeights if a weight file is absent or is not the pinned one, PreconditionFailed if
    the device cannot be used.
    """
    identity = profile_identity(profile)
    family = importlib.import_module(_FAMILIES[profile])
    models: Models = family.load(identity, device, threads)
    return models


def _check_known(profile: str) -> None:
    if profile not in _FAMILIES:
        raise UnknownProfile(f"there is no profile {profile!r}; known: {', '.join(known_profiles())}")
