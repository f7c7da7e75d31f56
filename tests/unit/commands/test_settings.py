"""Settings: an option wins over the environment, that over the file, that over the default; and all are documented."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner

from attributor.cli import option_name
from attributor.settings import AttributorSettings
from gmvaluator.commands.main import gmvaluator, reference
from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData

ROOT = Path(__file__).parents[3]


def chosen(monkeypatch: pytest.MonkeyPatch, *words: str, **environment: str) -> AttributorSettings:
    """What `gmvaluator WORDS` would serve by."""
    seen: list[AttributorSettings] = []

    def run(settings: AttributorSettings, announce: object) -> None:
        seen.append(settings)

    monkeypatch.setattr("attributor.server.serve", run)
    monkeypatch.setattr("attributor.cli.asyncio.run", lambda done: done)
    monkeypatch.setattr("attributor.cli.log_to_stderr", lambda *_: None)
    done = CliRunner().invoke(gmvaluator, list(words), env=environment, standalone_mode=False)
    if isinstance(done.exception, GmvaluatorError | click.ClickException):
        raise done.exception
    assert done.exception is None, done.exception
    return seen[0]


def test_option_environment_file_default_in_this_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gmvaluator.toml"
    file.write_text('[serve]\nmax-batch = 3\ndecoders = 4\ndrain = 7.5\naddress = "127.0.0.1:1"\n', encoding="utf-8")
    words = ["--config", str(file), "serve", "--max-batch", "9"]
    found = chosen(monkeypatch, *words, GMV_MAX_BATCH="8", GMV_DECODERS="6")
    assert (found.max_batch, found.decoders, found.drain_s, found.address) == (9, 6, 7.5, "127.0.0.1:1")
    assert found.max_in_flight == AttributorSettings(tmp_path).max_in_flight


@pytest.mark.parametrize(
    ("text", "error"),
    [("[serve]\nmax-bacth = 3", InvalidInput), ("{", InvalidInput), ("serve = 3", InvalidInput),
     ("[serve]\nmax-batch = 0", click.BadParameter), ("[serve]\nmax-batch = 'many'", click.BadParameter)],
)  # fmt: skip
def test_a_file_that_says_nonsense_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, error: Any
) -> None:
    file = tmp_path / "gmvaluator.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(error):
        chosen(monkeypatch, "--config", str(file), "serve")
    with pytest.raises(MissingData):
        chosen(monkeypatch, "--config", str(tmp_path / "absent"), "serve")


def test_every_setting_says_what_it_does_and_has_a_variable() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    for one in fields(AttributorSettings):
        if "help" in one.metadata:
            assert f"`GMV_{option_name(one.name).upper().replace('-', '_')}`" in page


def test_the_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8") == reference(gmvaluator), (
        "write it anew: python -m gmvaluator.commands.main > docs/reference/settings.md"
    )
