"""The environment of children: an allow-list."""

import pytest

from gmvaluator.environment import interpreter_environment


def test_only_what_an_interpreter_needs_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL", "PYTHONSTARTUP", "LD_PRELOAD", "ANYTHING"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PYTHONPATH", "/here")
    environment = interpreter_environment()
    assert environment["PYTHONPATH"] == "/here"
    assert "secret" not in environment.values()
