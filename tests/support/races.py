"""Races between threads, made certain."""

import os
import threading
from pathlib import Path

import pytest


def link_together(monkeypatch: pytest.MonkeyPatch, racers: int) -> None:
    """Hold every `os.link` until `racers` threads have come to one, so that all of them saw no file before."""
    together = threading.Barrier(racers)
    real = os.link

    def link(source: Path, target: Path) -> None:
        together.wait(30)
        real(source, target)

    monkeypatch.setattr(os, "link", link)
