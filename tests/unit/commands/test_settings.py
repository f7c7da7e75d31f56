"""Settings: precedence of option, environment, file and default; the documented reference."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner

from attributor.cli import option_name
from attributor.settings import AttributorSettings
from gmvaluator.commands.main import gmvaluator
from gmvaluator.commands.settings_reference import settings_page
from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData

ROOT = Path(__file__).parents[3]


def served_settings(monkeypatch: pytest.MonkeyPatch, *words: str, **environment: str) -> AttributorSettings:
    """Run `gmvaluator WORDS` without a server; return the settings that it would serve with."""
    served: list[AttributorSettings] = []

    def run(settings: AttributorSettings, announce: object) -> None:
        served.append(settings)

    monkeypatch.setattr("attributor.server.serve", run)
    monkeypatch.setattr("attributor.cli.asyncio.run", lambda result: result)
    monkeypatch.setattr("attributor.cli.log_to_stderr", lambda *_: None)
    result = CliRunner().invoke(gmvaluator, list(words), env=environment, standalone_mode=False)
    if isinstance(result.exception, GmvaluatorError | click.ClickException):
        raise result.exception
    assert result.exception is None, result.exception
    return served[0]


def test_option_precedes_environment_file_and_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gmvaluator.toml"
    file.write_text('[serve]\nmax-batch = 3\ndecoders = 4\ndrain = 7.5\naddress = "127.0.0.1:1"\n', encoding="utf-8")
    words = ["--config", str(file), "serve", "--max-batch", "9"]
    settings = served_settings(monkeypatch, *words, GMV_MAX_BATCH="8", GMV_DECODERS="6")
    assert (settings.max_batch, settings.decoders, settings.drain_s, settings.address) == (9, 6, 7.5, "127.0.0.1:1")
    assert settings.max_in_flight == AttributorSettings(tmp_path).max_in_flight


@pytest.mark.parametrize(
    ("text", "error"),
    [("[serve]\nmax-bacth = 3", InvalidInput), ("{", InvalidInput), ("serve = 3", InvalidInput),
     ("[serve]\nmax-batch = 0", click.BadParameter), ("[serve]\nmax-batch = 'many'", click.BadParameter)],
)  # fmt: skip
def test_invalid_settings_files_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, error: Any
) -> None:
    file = tmp_path / "gmvaluator.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(error):
        served_settings(monkeypatch, "--config", str(file), "serve")
    with pytest.raises(MissingData):
        served_settings(monkeypatch, "--config", str(tmp_path / "absent"), "serve")


def test_every_setting_is_documented_with_its_variable() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    for field in fields(AttributorSettings):
        if "help" in field.metadata:
            assert f"`GMV_{option_name(field.name).upper().replace('-', '_')}`" in page


def test_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8") == settings_page(), (
        "update it: python -m gmvaluator.commands.settings_reference > docs/reference/settings.md"
    )
