"""`gmvaluator demo`: the whole way, on real images, with the programs an operator would run.

What another policy would have paid for the same answers, for a look beside what was paid.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import webbrowser
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from gmvaluator.accounts import UNATTRIBUTED
from gmvaluator.client.connection import Connection
from gmvaluator.client.sync import AttributorClient
from gmvaluator.commands.attribute import StagePrinter, attribution_dict
from gmvaluator.commands.options import choice_options, json_option
from gmvaluator.commands.processes import dashboard, observed_attributor, run_command
from gmvaluator.errors import Failure
from gmvaluator.ids import sha256_hex
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.profiles import profile_identity
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.weights import credits_text, distance_millionths, divide, quality_millionths


def credits_by_account(finals: Iterable[Mapping[str, Any]], policy: Policy) -> dict[str, int]:
    """Micro-credits by account for FINAL answers, as `attribution_dict` gives them, had `policy` valued them.

    The contributors are those of the answers: a policy of a larger k would have had more of them.
    """
    totals: dict[str, int] = {}
    for final in finals:
        for account, credit in _one(final, policy).items():
            totals[account] = totals.get(account, 0) + credit
    return totals


def _one(final: Mapping[str, Any], policy: Policy) -> dict[str, int]:
    contributors = final["contributors"][: policy.k]
    value = policy.value(
        [one["training_image_id"] for one in contributors],
        [distance_millionths(one["perceptual_distance"]) for one in contributors],
        quality_millionths(final["quality"]),
    )
    totals = {UNATTRIBUTED: value.unattributed_micros}
    for one, credit in zip(contributors, value.credit_micros, strict=True):
        payees = sorted(one["payees"], key=lambda payee: str(payee["account"]))
        accounts = [payee["account"] for payee in payees]
        for account, part in zip(
            accounts, divide(credit, [payee["share_ppm"] for payee in payees], accounts), strict=True
        ):
            totals[account] = totals.get(account, 0) + part
    return totals


DATA_SET = "openclipart"
WAIT_S = 120.0
PAPER, CALIBRATED = "paper@1", "calibrated@2"


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default="./gmvaluator-demo",
    show_default=True,
    help="Folder that is made, or taken up again.",
)
@click.option("--top", default=3, show_default=True, type=click.IntRange(1, 50), help="Contributors shown an image.")
@click.option("--works", default=0, type=click.IntRange(0), help="Index the first WORKS images only; 0: all.")
@click.option("--images", "count", default=0, type=click.IntRange(0), help="Attribute IMAGES images only; 0: all.")
@click.option("--open", "open_browser", is_flag=True, help="Show it live in a browser, until Ctrl-C.")
@choice_options
@json_option
def demo(
    data: Path, top: int, works: int, count: int, open_browser: bool, choice: ProfileChoice, as_json: bool
) -> None:
    """Index 1,051 clip-art images, serve, attribute derived images, and print the credits per artist.

    Profile paper needs its weights (`gmvaluator models fetch`) and takes seconds an image: --works and --images take
    fewer.

    Running it again in the same folder indexes nothing and credits nothing twice.

    Example: gmvaluator demo --json > demo.json
    """
    started = time.monotonic()
    # Whoever ends us by SIGTERM means the programs we started too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say = Console(stderr=as_json)
    say.rule("1. Index the training images")
    profile = profile_identity(choice).hash  # missing weights show before anything is made
    chosen = ["--data", str(data), *choice.arguments()]
    index = run_command("index", "add", *_source(data, works), "--data-set", DATA_SET, *chosen)
    say.print(
        f"{index['read']:,} images read: {index['points']:,} points, {index['duplicates']:,} duplicates, "
        f"{index['rejects']:,} rejects; {index['collection']['indexed_points']:,} points are quantised"
    )
    model_version = f"demo-{choice.profile}"
    policy = _policy_for(profile)
    run_command("generators", "add", model_version, "--data-set", DATA_SET, "--policy", policy, "--data", str(data))
    say.print(f"{model_version} is paid by {policy}, the paper's formula beside it for comparison")
    if open_browser:
        _measure_recall(data, say)
    say.rule("2. Start the attributor")
    with (
        ExitStack() as beside,
        observed_attributor(*chosen, "--keep-images", "thumbnail") as (address, metrics),
        AttributorClient(Connection(address)) as client,
    ):
        client.wait_until_serving(WAIT_S)
        say.print(f"SERVING on {address}")
        if open_browser:
            url = beside.enter_context(dashboard("--data", str(data), "--server", address, "--metrics", metrics))
            say.print(f"the dashboard is at {url}")
            webbrowser.open(url)
        say.rule("3. Attribute the generated images")
        before = _issued(client)
        images = _attribute_all(client, model_version, count, StagePrinter(say, top))
        added = _issued(client) - before
        if open_browser:
            _until_interrupted(say)
    say.rule("4. Credits per artist")
    totals = run_command("ledger", "totals", "--data", str(data))
    summary = _summary(images, totals, added)
    paper = credits_by_account((image["stages"][-1] for image in images), load_policy(PAPER))
    say.print(_table(totals, policy, paper))
    say.print(_verdict(summary))
    seconds = time.monotonic() - started
    say.print(f"Everything is in {data.resolve()}; all processes are stopped; {seconds:.0f} s.")
    say.print("A credit says that the images are alike, not that one caused the other.", style="dim")
    if as_json:
        click.echo(json.dumps({**summary, "data": str(data.resolve()), "seconds": seconds, "index": index,
                               "policy": policy, "paper_micros": paper, "owners": totals["owners"],
                               "images": images}))  # fmt: skip
    if not summary["reconciles"]:
        raise Failure("the credits do not reconcile: run `gmvaluator ledger verify`")


def _measure_recall(data: Path, say: Console) -> None:
    """For the operations page."""
    figures = run_command("index", "verify", "--data", str(data))["figures"]
    say.print(f"the compressed index finds {figures['recall_at_50']:.1%} of the true 50 nearest")


def _source(data: Path, works: int) -> list[str]:
    """The sample as a source of `index add`; a manifest of its first works, if not all are wanted."""
    folder = sample_folder(DATA_SET)
    if not works:
        return [str(folder)]
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    manifest = data / f"first-{works}-works.csv"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("".join(lines[: works + 1]), encoding="utf-8")
    return [str(folder), "--manifest", str(manifest)]


def _attribute_all(
    client: AttributorClient, model_version: str, count: int, printer: StagePrinter
) -> list[dict[str, Any]]:
    """One call an image, as a generation server would make it; count: of them, 0 for all."""
    images = []
    for path in sorted(sample_folder("generated").glob("*.webp"))[: count or None]:
        data = path.read_bytes()
        generation = f"{model_version}:{sha256_hex(data)[:32]}"
        printer.heading(path.name, generation)
        stages = []
        for stage in client.attribute(data, generation, model_version):
            printer.stage(stage)
            stages.append(attribution_dict(stage))
        images.append({"file": path.name, "stages": stages})
    return images


def _until_interrupted(say: Console) -> None:
    with suppress(KeyboardInterrupt):
        say.print("Ctrl-C ends the dashboard and the attributor")
        threading.Event().wait()


def _issued(client: AttributorClient) -> int:
    """Micro-credits in all accounts."""
    return sum(royalty.balance_micros for royalty in client.royalties())


def _summary(images: list[dict[str, Any]], totals: dict[str, Any], added: int) -> dict[str, Any]:
    """Totals of the ledger, and whether it grew by what the streams answered; replays add nothing."""
    finals = [image["stages"][-1] for image in images]
    answered = sum(final["issued_micros"] for final in finals if not final["replayed"])
    names = ("issued_micros", "owners_micros", "unattributed_micros", "suspense_micros", "held_micros")
    return {
        **{name: totals[name] for name in names},
        "added_micros": added,
        "answered_micros": answered,
        "reconciles": bool(totals["reconciles"]) and answered == added,
    }


def _policy_for(profile: str) -> str:
    """The calibrated policy, if it was fitted to the profile with this hash; the paper's otherwise."""
    return CALIBRATED if load_policy(CALIBRATED).profile == profile else PAPER


def _table(totals: dict[str, Any], policy: str, paper: dict[str, int]) -> Table:
    table = Table("artist", "works", f"credits by {policy}", f"had {PAPER} paid")
    for column in table.columns[1:]:
        column.justify = "right"
    for owner in totals["owners"]:
        beside = credits_text(paper.get(f"owner:{owner['owner_id']}", 0))
        table.add_row(owner["display_name"], str(owner["works"]), credits_text(owner["credit_micros"]), beside)
    table.add_section()
    beside = credits_text(paper.get(UNATTRIBUTED, 0))
    table.add_row("nobody (unattributed)", "", credits_text(totals["unattributed_micros"]), beside)
    return table


def _verdict(summary: dict[str, Any]) -> str:
    parts = " + ".join(
        f"{name} {credits_text(summary[f'{name}_micros'])}" for name in ("owners", "unattributed", "suspense", "held")
    )
    verdict = "reconciles to the last micro-credit" if summary["reconciles"] else "DOES NOT RECONCILE"
    return (
        f"issued {credits_text(summary['issued_micros'])} = {parts}; this run added "
        f"{credits_text(summary['added_micros'])}, as its streams answered: {verdict}"
    )
