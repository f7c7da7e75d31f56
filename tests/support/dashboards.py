"""The dashboard as a subprocess, and a real Chromium."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from gmvaluator.auth.secret_files import own_environment

AXE = Path(__file__).parents[1] / "acceptance" / "browser" / "axe.min.js"
NO_CHROMIUM = "no Chromium is installed: apt-get install chromium (make test does so where it is root)"


class Dashboard:
    """`gmvaluator dashboard` on a free port; returns once it prints its `url`."""

    def __init__(self, data: Path, *words: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "gmvaluator", "dashboard", "--data", str(data), "--json", *words]
        command += ["--address", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_environment())
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the dashboard ended with {self.process.wait()}"
        self.url: str = json.loads(line)["url"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def dashboard(data: Path, *words: str, port: int = 0) -> Iterator[Dashboard]:
    running = Dashboard(data, *words, port=port)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium; skip the test, with the reason, if there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def serious(page: Page) -> list[str]:
    """Return the serious and critical problems that axe-core finds on a page."""
    # `evaluate` runs through the debugger, to which the content security policy does not apply.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]
