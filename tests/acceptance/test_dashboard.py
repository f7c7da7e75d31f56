"""Acceptance tests of the dashboard with a real browser, uvicorn and attributor."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.figures.formatting import amount_text
from gmvaluator.client.connection import Connection
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.store import open_ledger
from gmvaluator.testing.postings import sample_collage
from tests.acceptance.conftest import MODEL_VERSION
from tests.support.dashboards import Dashboard, chromium, dashboard, serious
from tests.support.programs import Attributor, gmvaluator

HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>\'"`${7*7}'
PAGES = ("/overview", "/finance", "/operations", "/search", "/generations/1", "/generations/999", "/nowhere")
KINDS = ("issued", "owners", "unattributed", "suspense", "held")


@pytest.fixture(scope="module")
def served(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attributor]:
    data = Path(shutil.copytree(indexed, tmp_path_factory.mktemp("shown") / "data"))
    with Attributor(data, "--keep-images", "thumbnail", "--metrics", "127.0.0.1:0") as running:
        yield running


@pytest.fixture(scope="module")
def sender(served: Attributor) -> Iterator[AttributorClient]:
    with AttributorClient(Connection(served.address)) as client:
        yield client


@pytest.fixture(scope="module")
def shown(served: Attributor, sender: AttributorClient) -> Iterator[Dashboard]:
    with dashboard(served.data, "--server", served.address, "--metrics", served.metrics) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; any script error, or anything that the content security policy blocks, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield opened
    context.close()
    assert problems == []


def send(client: AttributorClient, images: list[bytes], prefix: str) -> None:
    for number, image in enumerate(images):
        list(client.attribute(image, f"{prefix}:{number}", MODEL_VERSION))


def shows_the_ledger(page: Page, data: Path) -> None:
    """Wait until the page shows the figures of `ledger totals`, to the last micro-credit."""
    totals = gmvaluator("ledger", "totals", "--data", data)
    expect(page.locator("#sequence")).to_have_text(str(totals["postings"]))
    for kind in KINDS:
        shown = page.locator(f"[data-total={kind}]").first
        expect(shown).to_have_text(amount_text(totals[f"{kind}_micros"]))
    expect(page.locator("#check")).to_have_class(re.compile("good"))


def test_an_empty_ledger_says_what_to_do(shown: Dashboard, page: Page) -> None:
    page.goto(f"{shown.url}/overview")
    expect(page.locator("#live-text")).to_have_text("Live")
    if page.locator("#sequence").inner_text() == "0":
        expect(page.get_by_text("No image was attributed yet")).to_be_visible()


def test_totals_are_the_ledgers_while_images_flow(
    shown: Dashboard, served: Attributor, sender: AttributorClient, images: list[bytes], page: Page
) -> None:
    page.goto(f"{shown.url}/overview")
    for part in range(3):
        send(sender, images[4 * part : 4 * part + 4], f"flow{part}")
        shows_the_ledger(page, served.data)
    expect(page.locator("#feed > li")).to_have_count(6)
    expect(page.locator("#chart canvas")).to_be_visible()


def test_a_page_that_was_disconnected_catches_up(
    served: Attributor, sender: AttributorClient, images: list[bytes], page: Page
) -> None:
    running = Dashboard(served.data)
    page.goto(f"{running.url}/overview")
    expect(page.locator("#live-text")).to_have_text("Live")
    port = running.port
    running.stop()
    expect(page.locator("#live-text")).to_have_text("Disconnected", timeout=15_000)
    expect(page.locator("#banner")).to_contain_text("Disconnected")
    send(sender, images[12:15], "cut")
    with dashboard(served.data, port=port):
        expect(page.locator("#live-text")).to_have_text("Live", timeout=20_000)
        shows_the_ledger(page, served.data)


def test_stored_pictures_are_shown_with_their_credits(
    shown: Dashboard, sender: AttributorClient, images: list[bytes], page: Page
) -> None:
    send(sender, images[16:17], "kept")
    page.goto(f"{shown.url}/overview")
    made = page.locator(".made img").first
    expect(made).to_be_visible()
    assert made.evaluate("image => image.decode().then(() => image.naturalWidth)") > 1
    page.locator(".made").first.click()
    expect(page.locator("img.hero")).to_be_visible()
    expect(page.locator("#near")).to_be_visible()
    expect(page.get_by_role("link", name="Replay and evidence")).to_be_visible()
    page.get_by_role("table").get_by_role("link").first.click()
    expect(page.locator(".gallery img").first).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("the index cannot be reached")


def test_a_region_is_shown_alone_by_pointer_and_keyboard_without_scripts(tmp_path: Path, browser: Browser) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_collage()])
    context = browser.new_context(java_script_enabled=False, reduced_motion="reduce")
    with dashboard(tmp_path) as running:
        page = context.new_page()
        page.goto(f"{running.url}/generations/1")
        regions = [page.locator(f".region[data-seen='{number}']") for number in (1, 2)]
        works = [page.locator(f"#seen-{number}") for number in (1, 2)]
        works[1].hover()
        expect(regions[0]).to_have_css("opacity", "0.12")
        expect(regions[1]).to_have_css("opacity", "1")
        page.mouse.move(0, 0)
        regions[0].focus()
        expect(regions[1]).to_have_css("opacity", "0.12")
        expect(works[0]).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")
        # Following the link keeps the work marked.
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("#seen-1$"))
    context.close()


def test_operations_are_live(shown: Dashboard, sender: AttributorClient, images: list[bytes], page: Page) -> None:
    send(sender, images[17:18], "operations")
    page.goto(f"{shown.url}/operations")
    expect(page.locator("#live-text")).to_have_text("Live")
    for figure in ("in_flight", "waiting", "refused", "total_p99"):
        expect(page.locator(f"#{figure}")).to_have_text(re.compile(r"^[0-9]"))
    refused = int(page.locator("#refused").inner_text())
    with pytest.raises(InvalidInput):
        list(sender.attribute(b"no image", "operations:refused", MODEL_VERSION))
    expect(page.locator("#refused")).to_have_text(str(refused + 1), timeout=10_000)
    expect(page.locator("#reasons")).to_contain_text("InvalidImage")
    expect(page.locator("#stages")).to_contain_text("rerank")
    expect(page.locator(".histogram-row").first).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_there_is_no_serious_accessibility_problem(
    shown: Dashboard, sender: AttributorClient, images: list[bytes], browser: Browser, theme: str
) -> None:
    send(sender, images[:2], "axe")
    context = browser.new_context(color_scheme="dark" if theme == "dark" else "light")
    page = context.new_page()
    page.goto(f"{shown.url}/overview")
    owner = page.locator("#leaders a").first.get_attribute("href") or ""
    work = page.locator(".sources a").first.get_attribute("href") or ""
    for path in (*PAGES, owner, work):
        page.goto(f"{shown.url}{path}")
        page.wait_for_timeout(300)
        assert serious(page) == [], path
    context.close()


def test_a_phone_shows_every_page_without_scrolling_sideways(shown: Dashboard, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    for path in PAGES:
        page.goto(f"{shown.url}{path}")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    context.close()


def test_the_keyboard_reaches_everything(shown: Dashboard, page: Page) -> None:
    page.goto(f"{shown.url}/overview")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_a_hostile_query_is_shown_and_never_run(shown: Dashboard, page: Page) -> None:
    page.goto(f"{shown.url}/search")
    page.fill("#q", HOSTILE)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", name="Nothing found")).to_contain_text("<script>")
    assert page.evaluate("window.hurt") is None


def test_a_hostile_reason_is_kept_and_never_run(shown: Dashboard, sender: AttributorClient, page: Page) -> None:
    page.goto(f"{shown.url}/generations/1")
    page.get_by_text("Open a dispute").click()
    page.fill("#reason", HOSTILE)
    page.get_by_role("button", name="Open the dispute").click()
    expect(page.get_by_role("heading", name="The dispute is open")).to_be_visible()
    page.goto(f"{shown.url}/finance")
    expect(page.locator(".disputes")).to_contain_text("<script>")
    page.get_by_role("link", name="the work").count()
    assert page.evaluate("window.hurt") is None


def test_a_hostile_title_is_shown_and_never_run(
    sample: Path, images: list[bytes], tmp_path: Path, browser: Browser
) -> None:
    folder = Path(shutil.copytree(sample, tmp_path / "sample"))
    manifest = folder / "manifest.csv"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    columns = lines[0].split(",")
    few = [",".join(quoted if name in ("title", "author") else cell for name, cell in zip(columns, row, strict=True))
           for row in (line.split(",") for line in lines[1:]) if len(row) == len(columns)][:30]  # fmt: skip
    manifest.write_text("\n".join([lines[0], *few]) + "\n", encoding="utf-8")
    data = tmp_path / "data"
    gmvaluator("index", "add", folder, "--data-set", "sample", "--data", data)
    gmvaluator("generators", "add", MODEL_VERSION, "--data-set", "sample", "--policy", "paper@1", "--data", data)
    with Attributor(data) as running, dashboard(data, "--server", running.address) as shown:
        with AttributorClient(Connection(running.address)) as client:
            send(client, images[:2], "hostile")
            opened = browser.new_page()
            opened.goto(f"{shown.url}/overview")
            expect(opened.locator("#leaders .name").first).to_contain_text("<script>")
            send(client, images[2:4], "hostile-live")
            expect(opened.locator("#sequence")).to_have_text("4")
            work = opened.locator(".sources a").first.get_attribute("href") or ""
            for path in ("/generations/4", work, "/finance", "/search?q=script"):
                opened.goto(f"{shown.url}{path}")
                expect(opened.locator("main")).to_contain_text("<script>")
            assert opened.evaluate("window.hurt") is None
            opened.close()


def test_a_dropped_picture_is_compared_and_posts_nothing(
    shown: Dashboard, served: Attributor, sample: Path, page: Page
) -> None:
    before = gmvaluator("ledger", "totals", "--data", served.data)["postings"]
    page.goto(f"{shown.url}/search")
    page.set_input_files("#file", next((sample / "images").glob("*.webp")))
    expect(page.locator("#answer")).to_contain_text("this very file is in the index", timeout=20_000)
    expect(page.locator("#answer li").first).to_be_visible()
    page.evaluate(
        """() => {
            const carried = new DataTransfer();
            carried.items.add(new File(["no picture"], "<img src=x onerror=window.hurt=1>.png", { type: "image/png" }));
            document.getElementById("preview").dispatchEvent(
                new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.locator("#answer .problem")).to_be_visible(timeout=20_000)
    assert page.evaluate("window.hurt") is None
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#answer .problem")).to_be_visible(timeout=20_000)
    assert gmvaluator("ledger", "totals", "--data", served.data)["postings"] == before


def test_sigterm_ends_it_while_browsers_are_connected(served: Attributor, browser: Browser) -> None:
    running = Dashboard(served.data)
    opened = browser.new_page()
    opened.goto(f"{running.url}/overview")
    expect(opened.locator("#live-text")).to_have_text("Live")
    assert running.stop() in (0, -15, 143)
    opened.close()
