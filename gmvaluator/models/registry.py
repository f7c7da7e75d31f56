"""Profiles by name: one module per model family, imported only when its models are loaded."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gmvaluator.errors import UnknownProfile
from gmvaluator.ports import Float32Array, Models
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from PIL.Image import Image

DATA = Path(__file__).parent / "data"
"""Holds `NAME.json`, a profile's identity with the pinned hash of every weight file, and what we trained."""

_STUB = "gmvaluator.testing.stub"
"""Profile `stub`, or `stub:OPTIONS`: models without weights, for measuring the service. It is not listed."""

_FAMILIES = {"lite": "gmvaluator.models.lite"}


def known_profiles() -> tuple[str, ...]:
    """Names that `load_models` accepts, sorted."""
    return tuple(sorted(_FAMILIES))


def profile_identity(profile: str) -> ProfileIdentity:
    """Identity of a profile, from its pins alone: imports no model code. Raises UnknownProfile."""
    if _is_stub(profile):
        stub: ProfileIdentity = importlib.import_module(_STUB).IDENTITY
        return stub
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
    if _is_stub(profile):
        stub: Models = importlib.import_module(_STUB).load(profile.partition(":")[2])
        return stub
    identity = profile_identity(profile)
    family = importlib.import_module(_FAMILIES[profile])
    models: Models = family.load(identity, device, threads)
    return models


def input_maker(profile: str) -> Callable[[Image], Float32Array]:
    """What turns an RGB image into a profile's model input, (3, H, W) float32; loads no weights. Thread-safe.

    Raises UnknownProfile.
    """
    if not _is_stub(profile):
        _check_known(profile)
    family = importlib.import_module(_FAMILIES.get(profile, _STUB))
    prepare: Callable[[Image], Float32Array] = family.prepare
    return prepare


def _is_stub(profile: str) -> bool:
    return profile.partition(":")[0] == "stub"


def _check_known(profile: str) -> None:
    if profile not in _FAMILIES:
        raise UnknownProfile(f"there is no profile {profile!r}; known: {', '.join(known_profiles())}")
