"""Take the pictures in `docs/images/` of a running dashboard, with Chromium, at desktop and phone width.

    gmvaluator demo --open

    python -m evaluation.images.make_screenshots http://127.0.0.1:PORT docs/images

The picture of a search needs a running attributor, which the demo has. Look at the pictures before committing them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gmvaluator.errors import MissingData
from gmvaluator.samples import sample_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
ANSWER_MS = 60_000
SETTLE_MS = 1_500
"""Time to wait for the chart, and for figures that are polled every two seconds, in milliseconds."""


def take(url: str, folder: Path, chromium: str) -> list[Path]:
    """Take a screenshot of every page at every size; return the files."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        taken = [path for size in SIZES for path in _at_size(browser, url, folder, size)]
        browser.close()
    return taken


def _at_size(browser: Browser, url: str, folder: Path, size: str) -> list[Path]:
    width, height = SIZES[size]
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    taken = []
    for name, path in _addresses(page, url).items():
        page.goto(url + path)
        if name == "search":
            _drop(page)
        page.wait_for_timeout(SETTLE_MS)
        taken.append(folder / f"dashboard-{name}-{size}.png")
        page.screenshot(path=taken[-1], full_page=(name, size) == ("overview", "desktop"))
        _shrink(taken[-1])
    page.context.close()
    return taken


def _shrink(path: Path) -> None:
    """Reduce to 256 colours: a third of the bytes, without a visible difference."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _addresses(page: Page, url: str) -> dict[str, str]:
    """Return the addresses of single things: the image with the clearest source, a work with near-duplicates, an
    owner."""
    page.goto(f"{url}/overview")
    bars = page.locator(".generated .sources li:first-child .fill")
    widths = [float(element.get_attribute("width") or 0) for element in bars.all()]
    card = page.locator(".generated").nth(widths.index(max(widths)))
    generation = card.locator(".made").get_attribute("href") or ""
    owner = page.locator("#leaders a").first.get_attribute("href") or ""
    works = [element.get_attribute("href") or "" for element in page.locator(".generated .sources a").all()]
    return {
        "overview": "/overview",
        "generation": generation,
        "work": next((work for work in works if _has_copies(page, url + work)), works[0]),
        "owner": owner,
        "finance": "/finance",
        "operations": "/operations",
        "search": "/search",
    }


def _has_copies(page: Page, address: str) -> bool:
    page.goto(address)
    return page.locator(".near-duplicates li").count() > 2


def _drop(page: Page) -> None:
    page.set_input_files("#file", min(sample_folder("generated").glob("*-crop-1.webp")))
    page.wait_for_selector("#answer li", timeout=ANSWER_MS)
    page.locator("#alike").scroll_into_view_if_needed()


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MissingData("no Chromium is installed: apt-get install chromium")
    for path in take(chosen.url.rstrip("/"), chosen.folder, chromium):
        print(path)  # noqa: T201 - a command's answer


if __name__ == "__main__":
    main(sys.argv[1:])
