"""Who may enter the data folder: its owner alone, and a warning where it is not so."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click
from click.testing import CliRunner

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.options import data_option
from gmvaluator.storage.data_folder import open_to_others


@pytest.fixture
def usual_umask() -> Iterator[None]:
    old = os.umask(0o022)
    yield
    os.umask(old)


def test_databases_and_their_locks_are_for_their_owner_alone(usual_umask: None, tmp_path: Path) -> None:
    data = tmp_path / "data"
    catalogue = open_catalogue(data, write=True)
    try:
        files = {path.name: path.stat().st_mode & 0o777 for path in (data, *data.rglob("*"))}
        assert {"data", "catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite.lock"} <= files.keys()
        assert not {name for name, mode in files.items() if mode & 0o077}
    finally:
        catalogue.close()


@pytest.mark.parametrize(("mode", "warned"), [(0o700, False), (0o755, True), (0o750, True), (0o701, True)])
def test_a_folder_that_is_open_to_others_is_reported_once(tmp_path: Path, mode: int, warned: bool) -> None:
    @click.command()
    @data_option
    def command(data: Path) -> None:
        click.echo(data)

    data = tmp_path / "my data"
    data.mkdir()
    data.chmod(mode)
    result = CliRunner().invoke(command, ["--data", str(data)])
    assert result.stdout == f"{data}\n"
    assert (f"mode {mode:04o}" in result.stderr) == warned
    assert result.stderr.count("\n") == warned
    assert ("chmod -R go= '" in open_to_others(data)) == warned


def test_a_folder_that_is_not_there_is_not_reported(tmp_path: Path) -> None:
    assert open_to_others(tmp_path / "absent") == ""
