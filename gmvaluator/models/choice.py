"""The operator's choice of models: a profile, and variants of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gmvaluator.errors import InvalidInput

DEFAULT_MODELS = "~/.cache/gmvaluator/models"
"""Default folder of weight files; GMV_MODELS_DIR and `--models` override it."""


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """A profile by name, with its variants; an empty variant means the profile's own. Imports no model code.

    models: folder of weight files. recall: "ARCHITECTURE:TAG", "ARCHITECTURE:/path/to/checkpoint" or "vgg16".
    rerank: "dreamsim:TYPE", "lpips:NETWORK" or "none". quality: a metric of pyiqa, "lite" or "off". crops: how many
    crops of an image MANIQA scores; fewer are faster and deviate. precision: "fp32" or lower.
    """

    profile: str = "lite"
    models: Path = Path(DEFAULT_MODELS)
    recall: str = ""
    rerank: str = ""
    quality: str = ""
    crops: int = 0
    precision: str = ""

    def arguments(self) -> list[str]:
        """Return command-line arguments that make the same choice in another process."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        chosen = {name: value for name, value in values.items() if value != defaults[name]}
        return [argument for name, value in chosen.items() for argument in (f"--{name}", str(value))]

    def as_text(self) -> str:
        """Return JSON, to be passed to another process."""
        return json.dumps({**asdict(self), "models": str(self.models)})

    @classmethod
    def from_text(cls, text: str) -> ProfileChoice:
        """Parse the JSON of `as_text`."""
        value = json.loads(text)
        return cls(**{**value, "models": Path(value["models"])})

    def check_no_variant(self) -> None:
        """Raise InvalidInput if a variant was chosen, for a profile that has none."""
        for name in ("recall", "rerank", "quality", "crops"):
            if getattr(self, name):
                raise InvalidInput(
                    f"profile {self.profile} has no variants: leave out --{name}, or use --profile paper"
                )


def as_choice(profile: str | ProfileChoice) -> ProfileChoice:
    """Return the choice of a profile without variants for a name, and a choice unchanged."""
    return profile if isinstance(profile, ProfileChoice) else ProfileChoice(profile)
