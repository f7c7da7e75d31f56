"""Database files and other processes: a dead writer's lock, and what opening a database imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gmvaluator.errors import AlreadyHeld
from gmvaluator.ledger.schema import REVISION
from gmvaluator.storage.database import Database
from gmvaluator.storage.locks import WriterLock


def test_the_kernel_releases_the_lock_of_a_dead_writer(tmp_path: Path) -> None:
    file = tmp_path / "some.sqlite"
    script = "import os, sys; from pathlib import Path; from gmvaluator.storage.locks import WriterLock\n"
    script += "lock = WriterLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(AlreadyHeld, match=str(child.pid)):
            WriterLock(file)
        child.kill()
    WriterLock(file).release()


def test_opening_again_runs_no_migration(tmp_path: Path) -> None:
    Database(tmp_path / "ledger.sqlite", REVISION, write=True).close()
    script = "import sys; from pathlib import Path; from gmvaluator.ledger.store import open_ledger\n"
    script += "open_ledger(Path(sys.argv[1]), write=True).close(); sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0
