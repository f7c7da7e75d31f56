"""The documentation is true: commands, options, files, make targets, metrics and statuses that it names exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
import rich_click as click

from attributor.ops.metrics import REGISTRY, FileMetricsCollector, RuntimeCollector, RuntimeState
from gmvaluator.commands.main import gmvaluator
from gmvaluator.errors import GRPC_STATUS
from tests.checks.imports import folder_arrows

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
RECORDS = sorted((DOCS / "explanation" / "adr").glob("0*.md"))
SHELL_LINE = re.compile(r"^    (?:\$ )?(gmvaluator .*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]+))?\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(?:/[\w.@-]+)*/?")
MODULE = re.compile(r"\bpython -m ((?:gmvaluator|evaluation|tests|deploy)[\w.]+)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shown_commands() -> list[tuple[str, str]]:
    return [(page_id(page), line) for page in PAGES for line in SHELL_LINE.findall(read(page))]


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_every_command_shown_can_be_given(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = gmvaluator
    while isinstance(command, click.Group) and words:
        context = click.Context(command)
        subcommand = command.get_command(context, words[0])
        assert subcommand is not None, f"{page}: there is no command {words[0]}"
        command, words = subcommand, words[1:]
    command.make_context("shown", words)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in LINK.findall(read(page)):
        file = page.parent / target
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(read(page))}


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=page_id)
def test_every_page_can_be_reached_from_the_directory(page: Path) -> None:
    reachable = {DOCS / "README.md"}
    pending = list(reachable)
    while pending:
        origin = pending.pop()
        linked = {(origin.parent / target).resolve() for target, _ in LINK.findall(read(origin))}
        new = {file for file in linked if file.suffix == ".md" and file.exists()} - reachable
        reachable |= new
        pending += new
    assert page in reachable


def test_every_make_target_shown_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        code = "\n".join(re.findall(r"`[^`\n]+`|^    .*$", read(page), re.MULTILINE))
        assert set(MAKE.findall(code)) <= targets, page_id(page)


def test_every_command_is_in_the_documentation() -> None:
    text = "\n".join(read(page) for page in PAGES)
    for name in gmvaluator.list_commands(click.Context(gmvaluator)):
        assert f"gmvaluator {name}" in text, name


def test_the_readme_is_short_and_shows_both_commands() -> None:
    lines = read(ROOT / "README.md").splitlines()
    assert len(lines) <= 130
    assert {"make demo", "make test"} <= {line.strip().split("  ")[0] for line in lines}


def paths_named(page: Path) -> set[str]:
    """Return the code spans of a page that are paths of the repository; NAME stands for any name."""
    roots = {entry.name for entry in ROOT.iterdir()}
    spans = {span for span in CODE_SPAN.findall(read(page)) if PATH.fullmatch(span) and "NAME" not in span}
    return {span for span in spans if "/" in span and span.split("/")[0] in roots}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_path_named_exists(page: Path) -> None:
    assert not [path for path in sorted(paths_named(page)) if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*.json")), ids=lambda path: path.name)
def test_every_file_of_figures_is_json_and_says_where_it_is_from(path: Path) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    assert {"figures", "command", "commit"} <= set(value)


def test_rooms_import_only_rooms_of_lower_floors() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", read(ARCHITECTURE), re.MULTILINE)
    floors = {room.rstrip("/"): int(floor) for floor, rooms in rows for room in CODE_SPAN.findall(rooms)}
    arrows = {
        (origin, target)
        for origin, targets in folder_arrows().items()
        for target in targets
        if not origin.endswith("__main__.py") and "migrations" not in origin
    }
    assert {room for arrow in arrows for room in arrow} <= floors.keys()
    assert not [(origin, target) for origin, target in sorted(arrows) if floors[origin] <= floors[target]]


def test_the_architecture_page_names_the_repository_by_its_files() -> None:
    assert len(paths_named(ARCHITECTURE)) > 100


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_module_that_is_run_exists(page: Path) -> None:
    for module in MODULE.findall(read(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_page_of_metrics_lists_all_that_the_programs_expose(tmp_path: Path) -> None:
    collectors = [REGISTRY, RuntimeCollector(RuntimeState), FileMetricsCollector(tmp_path, {})]
    exposed = {metric.name for collector in collectors for metric in collector.collect()}
    exposed |= set(re.findall(r'"(gmvaluator_dashboard_[a-z_]+)"', read(ROOT / "dashboard" / "figures" / "metrics.py")))
    listed = re.findall(r"^\| `(gmvaluator_[a-z_]+)`", read(DOCS / "reference" / "metrics.md"), re.MULTILINE)
    assert sorted(name.removesuffix("_total") for name in listed) == sorted(exposed)


def test_the_page_of_statuses_lists_all_that_an_error_can_become() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \|", read(DOCS / "reference" / "statuses.md"), re.MULTILINE)
    assert sorted(rows) == sorted(set(GRPC_STATUS.values()))


@pytest.mark.parametrize("record", RECORDS, ids=page_id)
def test_every_decision_record_follows_the_template(record: Path) -> None:
    text = read(record)
    assert text.startswith(f"# {int(record.name[:4])}. ")
    assert re.search(r"^Status: (accepted|superseded by .+)$", text, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]
    assert record.name in read(record.parent / "README.md")
