"""`gmvaluator demo`: index the sample, serve it, attribute images and sum up credits, with the operator's programs."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
import time
import webbrowser
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import IO, Any

import rich_click as click
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from gmvaluator.accounts import UNATTRIBUTED
from gmvaluator.client.connection import Connection
from gmvaluator.client.sync import AttributorClient
from gmvaluator.commands.attribute import StagePrinter, attribution_dict
from gmvaluator.commands.options import choice_options, json_option, with_advanced_panel
from gmvaluator.commands.parameters import FOLDER
from gmvaluator.commands.processes import dashboard, observed_attributor, run_command
from gmvaluator.errors import Failure
from gmvaluator.files import private_folder
from gmvaluator.ids import sha256_hex
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.profiles import profile_identity
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import load_policy
from gmvaluator.valuation.weights import credits_text

DATA_SET = "openclipart"
PAPER, CALIBRATED = "paper@1", "calibrated@3"

SHOWN_IMAGES, SHOWN_ARTISTS = 6, 3
"""Images and artists that are printed without --verbose."""

DEFAULT_DEMO_DATA = "./gmvaluator-demo"
"""Default of `--data`: not the other commands' default, so that the sample is never mixed with the user's works."""

PROGRAM = "gmvaluator"

LINE_CHARACTERS = 79
"""Characters of the line of an image at most, so that it fits a terminal."""

LOG_NAME = "demo.log"
"""File in the data folder for the messages of the programs that the demo runs."""

WAIT_S = 120.0
"""Seconds to wait for the attributor to serve."""


@click.command()
@with_advanced_panel
@click.option(
    "--data",
    type=FOLDER,
    default=DEFAULT_DEMO_DATA,
    show_default=True,
    help="Folder to create, or to continue in.",
)
@click.option(
    "--top", default=3, show_default=True, type=click.IntRange(1, 50), help="Contributors to show for each image."
)
@click.option(
    "--works", default=0, type=click.IntRange(0, 1_000_000), help="Index only the first WORKS images; 0: all."
)
@click.option(
    "--images", "count", default=0, type=click.IntRange(0, 1_000_000), help="Attribute only IMAGES images; 0: all."
)
@click.option("--verbose", is_flag=True, help="Print every image with its stages, all artists, and all progress.")
@click.option("--open", "open_browser", is_flag=True, help="Show the dashboard in a browser, until Ctrl-C.")
@choice_options
@json_option
def demo(
    data: Path,
    top: int,
    works: int,
    count: int,
    verbose: bool,
    open_browser: bool,
    choice: ProfileChoice,
    as_json: bool,
) -> None:
    """Index 1,051 clip-art images, serve, attribute derived images, and print the credits per artist.

    Profile paper needs its weights (`gmvaluator models fetch`) and takes seconds for each image: use --works and
    --images to take fewer. Running the command again in the same folder indexes and credits nothing twice.

    Example: gmvaluator demo --json > demo.json
    """
    # SIGTERM has to stop the programs that were started, too: let it unwind the stack as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    profile = profile_identity(choice).hash  # fails on missing weights, before anything is created
    with ExitStack() as files:
        log = None if verbose else files.enter_context(_log_file(data))
        demonstration = Demonstration(data, choice, profile, Console(stderr=as_json), top, verbose, log)
        result = demonstration.run(works, count, open_browser)
    if as_json:
        click.echo(json.dumps(result))
    if not result["reconciles"]:
        raise Failure("the credits do not reconcile: run `gmvaluator ledger verify`")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One run of the demo. top: contributors to print of an image. log: where programs write; None: to our stderr."""

    data: Path
    choice: ProfileChoice
    profile: str
    console: Console
    top: int
    verbose: bool
    log: IO[str] | None

    def run(self, works: int, count: int, open_browser: bool) -> dict[str, Any]:
        """Index, serve, attribute and print; return what --json prints."""
        started, console = time.monotonic(), self.console
        index = self._index(works)
        model_version, policy = f"demo-{self.choice.profile}", _policy_for(self.profile)
        self._run("generators", "add", model_version, "--data-set", DATA_SET, "--policy", policy)
        if open_browser:
            self._measure_recall()
        with self._serving(open_browser) as client:
            files = generated_images(count)
            with self._step(f"Attributing {len(files)} generated images; a credit shows similarity, not cause"):
                before = _issued(client)
                images = _attribute_all(client, model_version, files, self._printer())
                added = _issued(client) - before
                finals = [image["stages"][-1] for image in images]
                # By a preview: the paper's policy ranks other contributors among the first k than ones with parts do.
                by_paper = finals if policy == PAPER else list(previews_by_paper(client, model_version, files))
            if not self.verbose:
                for image in chosen_images(images):
                    console.print(image_line(image), soft_wrap=True, highlight=False, markup=False)
            if open_browser:
                _wait_for_interrupt(console)
        totals = self._run("ledger", "totals")
        summary = _summary(images, totals, added)
        paper = credits_by_account(by_paper)
        console.print(_table(totals, policy, paper, self.verbose))
        console.print(_verdict(summary, self.verbose), soft_wrap=True, highlight=False)
        for line in next_steps(self.data, model_version):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        seconds = time.monotonic() - started
        if self.verbose:
            console.print(f"everything is in {self.data.resolve()}; {seconds:.0f} s", soft_wrap=True, highlight=False)
        return {**summary, "data": str(self.data.resolve()), "seconds": seconds, "index": index, "policy": policy,
                "paper_micros": paper, "owners": totals["owners"], "images": images}  # fmt: skip

    def _index(self, works: int) -> dict[str, Any]:
        """Index the sample, or its first `works` works if that is not 0; return the report of `index add`."""
        with self._step(f"Indexing {works or 'all'} images of the sample, which takes a few minutes"):
            source = _source(self.data, works)
            index = self._run("index", "add", *source, "--data-set", DATA_SET, *self.choice.arguments())
        if self.verbose:
            self.console.print(
                f"{index['read']:,} images read: {index['points']:,} points, {index['duplicates']:,} duplicates, "
                f"{index['rejects']:,} rejects; {index['collection']['indexed_points']:,} points are quantised"
            )
        return index

    @contextmanager
    def _serving(self, open_browser: bool) -> Iterator[AttributorClient]:
        """Run the attributor, and with `open_browser` the dashboard, and yield a client once it serves."""
        words = ["--data", str(self.data)]
        kept = [*words, *self.choice.arguments(), "--keep-images", "thumbnail"]
        with ExitStack() as programs:
            with self._step("Starting the attributor"):
                address, metrics = programs.enter_context(observed_attributor(*kept, log=self.log))
                client = programs.enter_context(AttributorClient(Connection(address)))
                client.wait_until_serving(WAIT_S)
            if open_browser:
                url = programs.enter_context(dashboard(*words, "--server", address, "--metrics", metrics))
                self.console.print(f"The dashboard is at {url}")
                webbrowser.open(url)
            yield client

    def _measure_recall(self) -> None:
        """Measure the index's recall, which the operations page of the dashboard shows."""
        with self._step("Measuring the recall of the compressed index"):
            figures = self._run("index", "verify")["figures"]
        self.console.print(f"It finds {figures['recall_at_50']:.1%} of the true 50 nearest")

    def _run(self, *words: str) -> dict[str, Any]:
        return run_command(*words, "--data", str(self.data), log=self.log)

    @contextmanager
    def _step(self, text: str) -> Iterator[None]:
        """Print what is done, and show a clock on a terminal while it is."""
        self.console.print(text, highlight=False)
        # With --verbose the programs write to the terminal themselves.
        hidden = self.verbose or not self.console.is_terminal
        clock = Progress(TimeElapsedColumn(), console=self.console, transient=True, disable=hidden)
        with clock:
            clock.add_task(text, total=None)
            yield

    def _printer(self) -> StagePrinter | None:
        return StagePrinter(self.console, self.top) if self.verbose else None


@contextmanager
def _log_file(data: Path) -> Iterator[IO[str]]:
    """Open the file that the messages of the programs are appended to."""
    path = data / LOG_NAME
    private_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        yield file


def chosen_images(images: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a few of the images, of all kinds; a kind is what follows the number in a file's name."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for image in images:
        kinds.setdefault(str(image["file"]).split("-")[1], []).append(image)
    of_kind = list(kinds.values())
    chosen: dict[str, Mapping[str, Any]] = {}
    for number in range(min(SHOWN_IMAGES, len(images))):
        kind = of_kind[number % len(of_kind)]
        # The images of a kind are of growing strength.
        image = kind[number % len(kind)]
        chosen[image["file"]] = image
    return [chosen[file] for file in sorted(chosen)]


def image_line(image: Mapping[str, Any]) -> str:
    """Return one line about an image: its best paid contributor with its share of the credit."""
    final = image["stages"][-1]
    best = max(final["contributors"], key=lambda row: row["credit_micros"], default=None)
    start = f"   {image['file']:<22} "
    if best is None or not best["credit_micros"]:
        return f"{start}unattributed: no work is near"
    artists = " & ".join(payee["display_name"] or payee["account"] for payee in best["payees"])
    line = f"{start}{best['share']:4.0%} to {artists} for {best['key']}"
    return line if len(line) <= LINE_CHARACTERS else f"{line[: LINE_CHARACTERS - 3]}..."


def next_steps(data: Path, model_version: str) -> list[str]:
    """Return the lines that suggest commands; each command can be given as it is printed."""
    program, folder = shlex.quote(_program()), shlex.join(["--data", str(data)])
    here = "" if data == Path(DEFAULT_DEMO_DATA) else f" {folder}"
    commands = {
        f"{program} demo --open{here}": "the same in a browser, live",
        f"{program} serve {folder}": "serve this index; then, in another terminal,",
        f"{program} attribute --model-version {model_version} IMAGE": "attribute an image of yours",
        f"{program} index add FOLDER --data-set NAME": "index pictures of your own",
    }
    width = max(map(len, commands))
    return ["WHAT TO DO NEXT", *(f"   {command:<{width}}  # {purpose}" for command, purpose in commands.items())]


def _program() -> str:
    """Return how this program is called from here: by its name if that finds it, else as it was called now."""
    called = sys.argv[0]
    if Path(called).name != PROGRAM or which(PROGRAM) is not None:
        return PROGRAM
    return called


def _source(data: Path, works: int) -> list[str]:
    """Return the arguments by which `index add` reads the sample, or its first `works` works if that is not 0."""
    folder = sample_folder(DATA_SET)
    if not works:
        return [str(folder)]
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    manifest = data / f"first-{works}-works.csv"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("".join(lines[: works + 1]), encoding="utf-8")
    return [str(folder), "--manifest", str(manifest)]


def generated_images(count: int) -> list[Path]:
    """Return the sample's generated images, or the first `count` of them if that is not 0."""
    return sorted(sample_folder("generated").glob("*.webp"))[: count or None]


def _attribute_all(
    client: AttributorClient, model_version: str, files: Sequence[Path], printer: StagePrinter | None
) -> list[dict[str, Any]]:
    """Attribute images, one call for each, as a generation server does."""
    images = []
    for path in files:
        data = path.read_bytes()
        generation = f"{model_version}:{sha256_hex(data)[:32]}"
        if printer is not None:
            printer.heading(path.name, generation)
        stages = []
        for stage in client.attribute(data, generation, model_version):
            if printer is not None:
                printer.stage(stage)
            stages.append(attribution_dict(stage))
        images.append({"file": path.name, "stages": stages})
    return images


def previews_by_paper(client: AttributorClient, model_version: str, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the FINAL of each image by the paper's policy, which posts nothing."""
    for path in files:
        *_, final = client.preview(path.read_bytes(), model_version, PAPER)
        yield attribution_dict(final)


def _wait_for_interrupt(console: Console) -> None:
    with suppress(KeyboardInterrupt):
        console.print("Ctrl-C ends the dashboard and the attributor")
        threading.Event().wait()


def _issued(client: AttributorClient) -> int:
    """Return the micro-credits of all accounts together."""
    return sum(royalty.balance_micros for royalty in client.royalties())


def _summary(images: list[dict[str, Any]], totals: dict[str, Any], added: int) -> dict[str, Any]:
    """Return the ledger's totals, and whether the ledger grew by exactly what the streams reported."""
    finals = [image["stages"][-1] for image in images]
    # A replayed image was posted before, so that it adds nothing to the ledger.
    answered = sum(final["issued_micros"] for final in finals if not final["replayed"])
    names = ("issued_micros", "owners_micros", "unattributed_micros", "suspense_micros", "held_micros")
    return {
        **{name: totals[name] for name in names},
        "added_micros": added,
        "answered_micros": answered,
        "reconciles": bool(totals["reconciles"]) and answered == added,
    }


def _policy_for(profile: str) -> str:
    """Return the calibrated policy if it was fitted to the profile with this hash, else the paper's."""
    return CALIBRATED if load_policy(CALIBRATED).profile == profile else PAPER


def _table(totals: dict[str, Any], policy: str, paper: dict[str, int], verbose: bool) -> Table:
    table = Table("artist", "works", f"paid by {policy}", f"{PAPER} would pay", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for owner in totals["owners"] if verbose else totals["owners"][:SHOWN_ARTISTS]:
        by_paper = credits_text(paper.get(f"owner:{owner['owner_id']}", 0))
        table.add_row(owner["display_name"], str(owner["works"]), credits_text(owner["credit_micros"]), by_paper)
    if not verbose and len(totals["owners"]) > SHOWN_ARTISTS:
        rest = totals["owners"][SHOWN_ARTISTS:]
        posted = sum(owner["credit_micros"] for owner in rest)
        others_by_paper = sum(paper.get(f"owner:{owner['owner_id']}", 0) for owner in rest)
        works = sum(owner["works"] for owner in rest)
        table.add_row(f"{len(rest)} others", str(works), credits_text(posted), credits_text(others_by_paper))
    by_paper = credits_text(paper.get(UNATTRIBUTED, 0))
    table.add_row("unattributed", "", credits_text(totals["unattributed_micros"]), by_paper)
    return table


def _verdict(summary: dict[str, Any], verbose: bool) -> str:
    issued = f"{credits_text(summary['issued_micros'])} credits issued"
    verdict = "reconciles to the last micro-credit" if summary["reconciles"] else "DOES NOT RECONCILE"
    if not verbose:
        return f"{issued}; the ledger {verdict}"
    parts = " + ".join(
        f"{name} {credits_text(summary[f'{name}_micros'])}" for name in ("owners", "unattributed", "suspense", "held")
    )
    added = f"this run added {credits_text(summary['added_micros'])}, as its streams answered"
    return f"{issued} = {parts}; {added}: {verdict}"


def credits_by_account(finals: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the micro-credits by account of FINAL stages, as `attribution_dict` returns them."""
    totals: Counter[str] = Counter()
    for final in finals:
        totals[UNATTRIBUTED] += final["unattributed_micros"]
        for contributor in final["contributors"]:
            for payee in contributor["payees"]:
                totals[payee["account"]] += payee["credit_micros"]
    return dict(totals)
