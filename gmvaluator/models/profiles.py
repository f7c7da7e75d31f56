"""Profiles by name: their identities, loading their models, and preparing their inputs.

The code of a model family is imported only when its models are loaded or its inputs are prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gmvaluator.errors import InvalidInput, UnknownProfile
from gmvaluator.models.choice import ProfileChoice, as_choice
from gmvaluator.models.known_models import specs_of
from gmvaluator.models.specs import shipped_identity
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Models, Prepare
from gmvaluator.profile import ProfileIdentity

CROPPED_WINDOWS = "halves-quadrants-thirds-sixths-centre/crops-448"
"""Name, in a profile's identity, of windows that are cut from the image and embedded each by itself."""

STUB = "stub"
"""Profile `stub`, or `stub:OPTIONS`: the load-test models of `gmvaluator.testing.stub_models`; it is not listed."""


@dataclass(frozen=True, slots=True)
class _Profile:
    """Functions that implement a profile. precisions: what its models can compute in, its own first."""

    precisions: tuple[str, ...]
    identity: Callable[[ProfileChoice], ProfileIdentity]
    load: Callable[[ProfileChoice, str, int | None], Models]
    input_maker: Callable[[ProfileChoice], Prepare]


def known_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that a user may choose, sorted."""
    return tuple(sorted(name for name in _PROFILES if name != STUB))


def profile_identity(profile: str | ProfileChoice) -> ProfileIdentity:
    """Return the identity of a profile, from its pins or from the models folder's record; imports no model code.

    Raises UnknownProfile, InvalidInput or UnknownModel for variants that do not exist, MissingWeights if a weight file
    is absent or not recorded.
    """
    choice = as_choice(profile)
    return _checked(choice).identity(choice)


def load_models(profile: str | ProfileChoice, device: str = "cpu", threads: int | None = None) -> Models:
    """Load a profile's models onto `device`; takes seconds, and reads local files only.

    threads: CPU threads of one forward pass for this process, None for torch's default (all cores). Call it on
    the thread that will call `embed`, after `process_setup.prepare_process`.
    Raises what `profile_identity` raises, MissingWeights if a weight file is not the pinned or recorded one or holds
    code, PreconditionFailed if the device cannot be used.
    """
    choice = as_choice(profile)
    return _checked(choice).load(choice, device, threads)


def input_maker(profile: str | ProfileChoice) -> Prepare:
    """Return the function that turns an RGB image into the inputs of a profile's models; loads no weights.

    The function is thread-safe. Raises UnknownProfile, InvalidInput or UnknownModel.
    """
    choice = as_choice(profile)
    return _checked(choice).input_maker(choice)


def _checked(choice: ProfileChoice) -> _Profile:
    """Return the chosen profile. Raises UnknownProfile, or InvalidInput for a precision that it lacks."""
    name = STUB if choice.profile.startswith(f"{STUB}:") else choice.profile
    profile = _PROFILES.get(name)
    if profile is None:
        raise UnknownProfile(f"there is no profile {choice.profile!r}; known: {', '.join(known_profiles())}")
    if choice.precision and choice.precision not in profile.precisions:
        raise InvalidInput(
            f"profile {choice.profile} has no precision {choice.precision!r}: give {' or '.join(profile.precisions)}"
        )
    return profile


def _lite_identity(choice: ProfileChoice) -> ProfileIdentity:
    choice.check_no_variant()
    identity = shipped_identity()
    return replace(identity, precision=choice.precision or identity.precision)


def _load_lite(choice: ProfileChoice, device: str, threads: int | None) -> Models:
    from gmvaluator.models.lite import load

    return load(choice, _lite_identity(choice), device, threads)


def _lite_input_maker(choice: ProfileChoice) -> Prepare:
    from gmvaluator.models.lite import prepare_query
    from gmvaluator.models.lite_weights import load_detector

    detector = load_detector(_lite_identity(choice))
    return lambda image, parts=True: prepare_query(image, detector, parts)


def _paper_identity(choice: ProfileChoice) -> ProfileIdentity:
    from gmvaluator.local_features.detection import KIND
    from gmvaluator.models.lite_weights import LOCAL_FEATURES_ROLE

    specs, folder = specs_of(choice), ModelsFolder(choice.models)
    return ProfileIdentity(
        name=choice.profile,
        recall_model=specs.recall.model,
        perceptual_model=specs.perceptual.model,
        quality_model=specs.quality.model,
        recall_dim=specs.recall.dim,
        perceptual_dim=specs.perceptual.dim,
        precision=choice.precision or _PROFILES["paper"].precisions[0],
        weights={
            **{file.role: folder.recorded_sha256(file) for file in specs.files},
            LOCAL_FEATURES_ROLE: shipped_identity().weights[LOCAL_FEATURES_ROLE],
        },
        local_features=KIND,
        windows=CROPPED_WINDOWS,
    )


def _load_paper(choice: ProfileChoice, device: str, threads: int | None) -> Models:
    from gmvaluator.models.composed import load

    return load(choice, _paper_identity(choice), device, threads)


def _paper_input_maker(choice: ProfileChoice) -> Prepare:
    from gmvaluator.models.preprocessing import preparation_of

    return preparation_of(specs_of(choice)).query


# Load tests start the real programs, each of which starts processes of its own, with models of a fixed cost and no
# weights. A command line is the only thing that reaches all of those processes, so the profile's name has to select
# the stub here. This is the product's one import of `gmvaluator.testing`.


def _stub_identity(choice: ProfileChoice) -> ProfileIdentity:  # noqa: ARG001 - one for all costs
    from gmvaluator.testing.stub_models import IDENTITY

    return IDENTITY


def _load_stub(choice: ProfileChoice, device: str, threads: int | None) -> Models:  # noqa: ARG001 - it needs neither
    from gmvaluator.testing.stub_models import load

    return load(choice.profile.partition(":")[2])


def _stub_input_maker(choice: ProfileChoice) -> Prepare:  # noqa: ARG001 - one for all costs
    from gmvaluator.testing.stub_models import prepare

    return prepare


_PROFILES = {
    "lite": _Profile(("fp32", "bf16"), _lite_identity, _load_lite, _lite_input_maker),
    "paper": _Profile(("fp32", "bf16", "int8"), _paper_identity, _load_paper, _paper_input_maker),
    STUB: _Profile(("fp32", "bf16", "int8"), _stub_identity, _load_stub, _stub_input_maker),
}
