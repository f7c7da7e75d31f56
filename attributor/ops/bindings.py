"""Log of the registered generators with the policies that value their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from gmvaluator.ports import Generator

_log = structlog.get_logger("attributor")


class BindingLog:
    """A log of each generator when it is first seen, and again when its registration has changed."""

    def __init__(self) -> None:
        self._logged: dict[str, Generator] = {}

    def observe(self, generators: Sequence[Generator], problem: Callable[[Generator], str]) -> None:
        """Log the generators that are new or changed since the last call.

        problem: returns why a generator's policy cannot be used, which is a warning, or "".
        """
        for generator in generators:
            if self._logged.get(generator.model_version) != generator:
                _log.info(
                    "generator",
                    model_version=generator.model_version,
                    policy=generator.policy,
                    data_sets=generator.data_sets,
                    collection=generator.collection,
                )
                if why := problem(generator):
                    _log.warning("no image of this generator can be valued", generator=generator.model_version, why=why)
        self._logged = {generator.model_version: generator for generator in generators}
