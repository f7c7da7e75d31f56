"""The page docs/reference/settings.md, generated from the options of the commands.

Run `python -m gmvaluator.commands.settings_reference > docs/reference/settings.md` to update it.
"""

from __future__ import annotations

from collections.abc import Iterator

import rich_click as click

from gmvaluator.commands.main import gmvaluator

_DOCUMENTED = ("serve", "attribute", "dashboard")
_HEAD = """# Settings

A setting comes from its command-line option, else from its environment variable, else from the TOML file that
`gmvaluator --config FILE` or `GMV_CONFIG` names; without any of these it has its default. The file has a table for each
command, whose keys are the option names without the dashes in front. Unknown keys are refused:

    [serve]
    address = "0.0.0.0:50051"
    max-batch = 16

Secrets can be read from files, as containers provide them: `DATABASE_URL`, `DATABASE_PASSWORD` (inserted into a URL
without a password) and `QDRANT_API_KEY` each have a variant that ends in `_FILE` and names the file. Setting both
variants is refused.

This page is generated from the commands by `python -m gmvaluator.commands.settings_reference`; a test compares the two.
"""


def settings_page() -> str:
    """Return the page in Markdown."""
    parts = [_HEAD]
    for name in _DOCUMENTED:
        command = gmvaluator.get_command(click.Context(gmvaluator), name)
        assert command is not None
        rows = "\n".join(_rows(command))
        parts.append(f"\n## gmvaluator {name}\n\n| option | environment | default | |\n|---|---|---|---|\n{rows}\n")
    return "".join(parts)


def _rows(command: click.Command) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option):
            names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
            variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
            cells = [names, ", ".join(f"`{name}`" for name in variables), _default(option)]
            # A vertical bar would end the cell of the Markdown table.
            yield f"| {' | '.join(cells)} | {(option.help or '').replace('|', '/')} |"


def _default(option: click.Option) -> str:
    value = option.to_info_dict()["default"]
    return f"`{value}`" if isinstance(value, int | float | str) and value not in ("", False) else ""


if __name__ == "__main__":
    click.echo(settings_page(), nl=False)
