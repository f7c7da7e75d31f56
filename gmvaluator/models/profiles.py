"""Profiles by name: one module per model family, imported only when its models are loaded."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gmvaluator.errors import InvalidInput, UnknownProfile
from gmvaluator.models.choice import ProfileChoice, as_choice
from gmvaluator.models.known_models import specs_of
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Models, Prepared
from gmvaluator.profile import ProfileIdentity

if TYPE_CHECKING:
    from PIL.Image import Image

DATA = Path(__file__).parent / "data"
"""Holds `NAME.json`, a shipped profile's identity with the pinned hash of every weight file, and what we trained."""

PRECISIONS = {"lite": ("fp32", "bf16"), "paper": ("fp32", "bf16", "int8")}
"""What a profile's models can compute in; the first is its own."""

_STUB = "gmvaluator.testing.stub_models"
"""Profile `stub`, or `stub:OPTIONS`: models without weights, for measuring the service. It is not listed."""

_FAMILIES = {"lite": "gmvaluator.models.lite", "paper": "gmvaluator.models.composed"}


def known_profiles() -> tuple[str, ...]:
    """Names that `load_models` accepts, sorted."""
    return tuple(sorted(_FAMILIES))


def profile_identity(profile: str | ProfileChoice) -> ProfileIdentity:
    """Identity of a profile, from its pins or from the record of the models folder: imports no model code.

    Raises UnknownProfile, InvalidInput or UnknownModel for variants there are not, MissingWeights if a weight file
    is absent or not recorded.
    """
    choice = as_choice(profile)
    if _is_stub(choice):
        stub: ProfileIdentity = importlib.import_module(_STUB).IDENTITY
        return stub
    _check(choice)
    if choice.profile == "paper":
        return _composed_identity(choice)
    choice.check_no_variant()
    pins = (DATA / f"{choice.profile}.json").read_text(encoding="utf-8")
    identity = ProfileIdentity.from_dict(json.loads(pins))
    return replace(identity, precision=choice.precision or identity.precision)


def load_models(profile: str | ProfileChoice, device: str = "cpu", threads: int | None = None) -> Models:
    """Load a profile's models onto `device`; takes seconds, and reads local files only.

    threads: CPU threads of one forward pass for this process, None for torch's default (all cores). Call it on
    the thread that will call `embed`, after `process.prepare_process`.
    Raises what `profile_identity` raises, MissingWeights if a weight file is not the pinned or recorded one or holds
    code, PreconditionFailed if the device cannot be used.
    """
    choice = as_choice(profile)
    if _is_stub(choice):
        stub: Models = importlib.import_module(_STUB).load(choice.profile.partition(":")[2])
        return stub
    identity = profile_identity(choice)
    models: Models = importlib.import_module(_FAMILIES[choice.profile]).load(choice, identity, device, threads)
    return models


def input_maker(profile: str | ProfileChoice) -> Callable[[Image], Prepared]:
    """What turns an RGB image into the inputs of a profile's models; loads no weights. Thread-safe.

    Raises UnknownProfile, InvalidInput or UnknownModel.
    """
    choice = as_choice(profile)
    if _is_stub(choice):
        stub: Callable[[Image], Prepared] = importlib.import_module(_STUB).input_maker()
        return stub
    _check(choice)
    make: Callable[[Image], Prepared] = importlib.import_module(_FAMILIES[choice.profile]).input_maker(choice)
    return make


def _is_stub(choice: ProfileChoice) -> bool:
    return choice.profile.partition(":")[0] == "stub"


def _check(choice: ProfileChoice) -> None:
    if choice.profile not in _FAMILIES:
        raise UnknownProfile(f"there is no profile {choice.profile!r}; known: {', '.join(known_profiles())}")
    known = PRECISIONS[choice.profile]
    if (choice.precision or known[0]) not in known:
        raise InvalidInput(f"profile {choice.profile} has no precision {choice.precision!r}: give {' or '.join(known)}")


def _composed_identity(choice: ProfileChoice) -> ProfileIdentity:
    parts, folder = specs_of(choice), ModelsFolder(choice.models)
    return ProfileIdentity(
        name=choice.profile,
        recall_model=parts.recall.model,
        perceptual_model=parts.perceptual.model,
        quality_model=parts.quality.model,
        recall_dim=parts.recall.dim,
        perceptual_dim=parts.perceptual.dim,
        precision=choice.precision or PRECISIONS[choice.profile][0],
        weights={file.role: folder.recorded_sha256(file) for file in parts.files},
    )
