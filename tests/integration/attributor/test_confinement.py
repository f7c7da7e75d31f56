"""What a process that parses hostile images may still do: parse images."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from attributor.workers.confinement import COMPLETE
from attributor.workers.decoder_process import DecoderProcess

ATTEMPTS = """
import json, os, signal, socket, sys
from attributor.workers.confinement import confine

def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "allowed"

outside, own = sys.argv[1:]
descriptor = os.open(outside, os.O_RDONLY)
done = confine()
print(json.dumps({
    "confined": done,
    "socket": attempt(socket.socket),
    "connection": attempt(lambda: socket.create_connection(("127.0.0.1", 1))),
    "read": attempt(lambda: open(outside).read()),
    "write": attempt(lambda: open(outside, "w")),
    "create": attempt(lambda: open(own + "/new", "x")),
    "delete": attempt(lambda: os.unlink(outside)),
    "rename": attempt(lambda: os.rename(outside, outside + "2")),
    "permissions": attempt(lambda: os.fchmod(descriptor, 0o666)),
    "fork": attempt(os.fork),
    "program": attempt(lambda: os.execv("/bin/true", ["true"])),
    "signal": attempt(lambda: os.kill(os.getppid(), 0)),
    "own module": attempt(lambda: __import__("colorsys")),
}))
"""


def test_a_confined_process_reaches_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(secret), str(Path(os.__file__).parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    outcome = json.loads(done.stdout)
    if outcome.pop("confined") != COMPLETE:
        pytest.skip("this kernel has no Landlock or no seccomp")
    assert outcome.pop("own module") == "allowed"
    assert set(outcome.values()) == {"PermissionError"}, outcome
    assert secret.read_text() == "key"


def test_a_decoder_is_confined_and_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the cloud")
    monkeypatch.setenv("SOME_VENDORS_TOKEN", "of another program")
    with closing(DecoderProcess()) as process:
        folder = Path(f"/proc/{process.process_id}")
        assert b"of the cloud" not in (folder / "environ").read_bytes()
        assert b"of another program" not in (folder / "environ").read_bytes()
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        assert status["NoNewPrivs"] == "1"
        if process.confinement == COMPLETE:
            assert status["Seccomp"].strip() == "2"
