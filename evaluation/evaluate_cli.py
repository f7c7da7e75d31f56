"""`gmvaluator evaluate NAME`: one subcommand a benchmark, each in a module of its own, imported when called."""

from __future__ import annotations

import importlib

import rich_click as click

_COMMANDS: dict[str, tuple[str, str, str]] = {
    "known-source": (
        "evaluation.known_source.cli",
        "evaluate_known_source",
        "Measure what share of the credit finds the true source.",
    ),
    "criteria": (
        "evaluation.criteria.cli",
        "evaluate_criteria",
        "Measure the paper's criteria: class, attributes, noise, time, and what was trained on.",
    ),
    "counterfactual": (
        "evaluation.counterfactual.cli",
        "evaluate_counterfactual",
        "Retrain a small generator without the credited works.",
    ),
    "duplicates": (
        "evaluation.duplicates.cli",
        "evaluate_duplicates",
        "Measure which distance tells near-copies, and what adding copies earns.",
    ),
    "all": ("evaluation.full_report.cli", "evaluate_all", "Run every benchmark and write one page."),
}
"""Name to (module, attribute, summary)."""


class _Benchmarks(click.RichGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Benchmarks)
def evaluate() -> None:
    """Measure what the credits are worth, with a report to look at.

    Example: gmvaluator evaluate all --out report/
    """
