"""Which models a program is to use: a profile, and the variants of it that the operator chose."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gmvaluator.errors import InvalidInput

DEFAULT_MODELS = "~/.cache/gmvaluator/models"
"""Where weights lie unless GMV_MODELS_DIR or `--models` says otherwise."""


@dataclass(frozen=True, slots=True)
class ProfileChoice:
    """A profile by name, with its variants; an empty variant is the profile's own. Light: imports no model code.

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
        """Command-line arguments that make the same choice in another process."""
        chosen = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return [text for name, value in chosen.items() for text in (f"--{name}", str(value))]

    def as_text(self) -> str:
        """JSON, for another process."""
        return json.dumps({**asdict(self), "models": str(self.models)})

    @classmethod
    def from_text(cls, text: str) -> ProfileChoice:
        """Inverse of `as_text`."""
        value = json.loads(text)
        return cls(**{**value, "models": Path(value["models"])})

    def check_no_variant(self) -> None:
        """Raises InvalidInput if a variant was chosen: the profile has none."""
        for name in ("recall", "rerank", "quality", "crops"):
            if getattr(self, name):
                raise InvalidInput(
                    f"profile {self.profile} has no variants: leave out --{name}, or use --profile paper"
                )


def as_choice(profile: str | ProfileChoice) -> ProfileChoice:
    """A name stands for that profile without variants."""
    return profile if isinstance(profile, ProfileChoice) else ProfileChoice(profile)
