"""What a check found: that all is well, that something is wrong, or that it could not be checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. wrong: what is, a line each. unchecked: why it could not be checked, or what of it could not."""

    check: str
    wrong: tuple[str, ...] = ()
    unchecked: str = ""

    @classmethod
    def of(cls, check: str, wrong: Iterable[str | None]) -> Finding:
        """From problems, of which None says that there is none."""
        return cls(check, tuple(one for one in wrong if one is not None))

    def text(self) -> str:
        """For people: a word in front, then a line for each problem."""
        word = "WRONG      " if self.wrong else "NOT CHECKED" if self.unchecked else "ok         "
        head = f"{word}  {self.check}" + (f": {self.unchecked}" if self.unchecked else "")
        return "\n".join([head, *(f"             {one}" for one in self.wrong)])
