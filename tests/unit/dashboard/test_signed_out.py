"""Sessions that were signed out: shared by dashboards of a folder, bounded, and kept where nothing can be written."""

from pathlib import Path

import pytest

from dashboard.web.signed_out import SignedOut


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_another_dashboard_of_the_folder_and_a_later_one_know_it(tmp_path: Path) -> None:
    here, there = SignedOut(tmp_path / "out", 60), SignedOut(tmp_path / "out", 60)
    assert "a" not in there
    here.add("a")
    there.add("b")
    for known in (here, there, SignedOut(tmp_path / "out", 60)):
        assert "a" in known
        assert "b" in known
        assert "c" not in known


def test_it_is_forgotten_once_its_cookie_has_expired(tmp_path: Path) -> None:
    clock = Clock()
    ended = SignedOut(tmp_path / "out", 60, clock)
    ended.add("a")
    clock.now += 61
    ended.add("b")
    assert "a" not in ended
    assert len((tmp_path / "out").read_text().splitlines()) == 1


def test_the_file_holds_no_secret_and_is_this_user_s_alone(tmp_path: Path) -> None:
    SignedOut(tmp_path / "out", 60).add("secret")
    assert "secret" not in (tmp_path / "out").read_text()
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_where_nothing_can_be_written_it_ends_in_this_process(tmp_path: Path) -> None:
    ended = SignedOut(tmp_path / "missing" / "out", 60)
    ended.add("a")
    assert "a" in ended


def test_a_write_that_fails_takes_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SignedOut(tmp_path / "out", 60)
    ended.add("a")

    def fails(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.replace", fails)
        ended.add("b")
    assert "a" in SignedOut(tmp_path / "out", 60)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.lock"}


def test_a_line_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    SignedOut(tmp_path / "out", 60).add("a")
    with (tmp_path / "out").open("ab") as file:
        file.write(b"\xff\xfe half a line")
    assert "a" in SignedOut(tmp_path / "out", 60)
