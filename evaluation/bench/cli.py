"""The commands `gmvaluator bench NAME`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

from evaluation.cli import print_report
from gmvaluator.commands.options import choice_options, json_option, variant_options
from gmvaluator.commands.parameters import ANY_PATH, FOLDER, FiniteRange, PathParameter
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.report import report

SERVE_SECTIONS = ("lite", "paper", "sustained", "indexing", "batching", "overload", "leaving", "hostile")
INDEX_SECTIONS = ("indexing", "embeddings", "queries", "compressions", "growth")


@click.group()
def bench() -> None:
    """Measure speed, as JSON, with the baseline in the same run.

    Example: gmvaluator bench serve --json
    """


@bench.command()
@click.option("--section", "sections", multiple=True, type=click.Choice(SERVE_SECTIONS), help="Default: all.")
@click.option("--count", default=600, show_default=True, type=click.IntRange(64, 1_000_000), help="Images per phase.")
@click.option("--concurrency", default=32, show_default=True, type=click.IntRange(1, 256), help="Callers at full load.")
@click.option(
    "--points",
    default=100_000,
    show_default=True,
    type=click.IntRange(1_000, 100_000_000),
    help="Points of the stubs' index.",
)
@click.option("--per-second", default=60.0, show_default=True, type=FiniteRange(1, 100_000), help="Sustained load.")
@click.option(
    "--sustained", "sustained_s", default=300.0, show_default=True, type=FiniteRange(1, 86_400), help="Seconds."
)
@click.option("--overload", "overload_s", default=60.0, show_default=True, type=FiniteRange(1, 86_400), help="Seconds.")
@click.option(
    "--calls",
    default=1_000,
    show_default=True,
    type=click.IntRange(100, 1_000_000),
    help="Calls to cancel, and calls to time out.",
)
@click.option(
    "--keep",
    type=FOLDER,
    help="Folder of the stubs' index and seeded weights, which is reused.",
)
@click.option("--paper", "paper", default="", metavar="OPTIONS", help="Options that choose the models of `paper`.")
@json_option
def serve(sections: tuple[str, ...], paper: str, as_json: bool, **sizes: Any) -> None:
    """Measure the overhead of the service, compared with its models in a plain loop on one core, and load shedding.

    Section `paper` writes models with seeded weights; --paper gives the options by which `serve` finds others.

    Example: gmvaluator bench serve --section lite --json
    """
    from evaluation.bench.serving.run import Sizes, bench_serve

    figures = bench_serve(sections or SERVE_SECTIONS, Sizes(paper=tuple(shlex.split(paper)), **sizes))
    print_report(report(figures, shlex.join(["gmvaluator", *sys.argv[1:]])), as_json)


@bench.command()
@click.option("--section", "sections", multiple=True, type=click.Choice(INDEX_SECTIONS), help="Default: all.")
@click.option(
    "--points", default=100_000, show_default=True, type=click.IntRange(256, 100_000_000), help="Vectors of the tables."
)
@click.option(
    "--embed", default=100_000, show_default=True, type=click.IntRange(100, 10_000_000), help="Real images embedded."
)
@click.option(
    "--questions", default=400, show_default=True, type=click.IntRange(10, 1_000_000), help="Held-out queries."
)
@click.option(
    "--works", "images", default=240, show_default=True, type=click.IntRange(6, 525), help="Works indexed per round."
)
@click.option(
    "--given", default=20_000, show_default=True, type=click.IntRange(100, 100_000_000), help="Embeddings to import."
)
@click.option(
    "--growth",
    multiple=True,
    default=(10_000, 100_000, 1_000_000),
    show_default=True,
    type=click.IntRange(100, 100_000_000),
    help="Numbers of vectors in the growth curve.",
)
@click.option(
    "--images",
    "places",
    multiple=True,
    type=ANY_PATH,
    help="Images in addition to the sample's: a folder, an .npz, or a folder with Fashion-MNIST's idx files.",
)
@click.option("--keep", type=FOLDER, help="Folder of cached embeddings and figures.")
@json_option
def index(sections: tuple[str, ...], keep: Path | None, as_json: bool, **sizes: Any) -> None:
    """Measure indexing speed, and the recall, cost and size of each quantisation compared with FAISS.

    Vectors are embeddings of real images and of augmentations of them. If more are needed than --embed, the rest is
    interpolated; `made_by` in the report counts them.

    Example: gmvaluator bench index --keep ./bench --json
    """
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    from evaluation.bench.index.run import Sizes, bench_index

    figures = bench_index(sections or INDEX_SECTIONS, Sizes(**sizes), keep)
    print_report(report(figures, shlex.join(["gmvaluator", *sys.argv[1:]])), as_json)


@bench.command()
@click.option(
    "--images", default=4_000, show_default=True, type=click.IntRange(64, 1_000_000), help="Images per phase."
)
@click.option(
    "--entries",
    default=10_000_000,
    show_default=True,
    type=click.IntRange(10_000, 10_000_000_000),
    help="Entries behind the owners' totals.",
)
@click.option("--kills", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Processes to kill.")
@click.option("--power-losses", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Crash images.")
@click.option(
    "--on",
    "folder",
    type=PathParameter(exists=True, file_okay=False),
    help="Folder on the disk to measure; default: the temporary folder.",
)
@json_option
def ledger(images: int, entries: int, kills: int, power_losses: int, folder: Path | None, as_json: bool) -> None:
    """Measure how fast postings of 50 contributors become durable, compared with a plain sqlite3 loop and fsync.

    Example: gmvaluator bench ledger --json
    """
    from evaluation.bench.ledger import bench_ledger

    figures = bench_ledger(images, entries, kills, power_losses, folder)
    command = f"gmvaluator bench ledger --images {images} --entries {entries} --kills {kills}"
    print_report(report(figures, f"{command} --power-losses {power_losses} --json"), as_json)


@bench.command()
@click.option(
    "--threads", default=2, show_default=True, type=click.IntRange(1, 256), help="CPU threads per forward pass."
)
@click.option("--seconds", default=10.0, show_default=True, type=FiniteRange(0, 600), help="Seconds per batch size.")
@click.option(
    "--model", "names", multiple=True, type=click.Choice(["clip", "dreamsim", "maniqa", "lite"]), help="Default: all."
)
@json_option
def models(threads: int, seconds: float, names: tuple[str, ...], as_json: bool) -> None:
    """Compare each model with its package's own plain loop, in every precision; seeded weights, no download.

    Example: gmvaluator bench models --json
    """
    from evaluation.bench.models import NAMES, bench_models

    chosen = names or tuple(NAMES)
    figures = bench_models(threads, seconds, chosen)
    rows = figures.pop("models")
    selected = "".join(f" --model {name}" for name in names)
    value = report(figures, f"gmvaluator bench models --threads {threads} --seconds {seconds:g}{selected} --json")
    print_report({"models": rows, **value}, as_json)


@bench.command()
@click.option("--policy", "policies", multiple=True, default=("paper@1", "calibrated@3"), show_default=True)
@choice_options
@json_option
def precision(policies: tuple[str, ...], choice: ProfileChoice, as_json: bool) -> None:
    """Measure how much credit a lower --precision (bf16) moves on the sample, and whether it still finds the sources.

    Example: gmvaluator bench precision --profile lite --precision bf16 --json
    """
    from evaluation.bench.precision import bench_precision
    from gmvaluator.models.process_setup import prepare_process
    from gmvaluator.valuation.policy import load_policy

    prepare_process()
    from gmvaluator.models.profiles import load_models

    chosen = replace(choice, precision=choice.precision or "bf16")
    loaded = [load_policy(reference) for reference in policies]
    figures = bench_precision(lambda name: load_models(replace(chosen, precision=name)), chosen.precision, loaded)
    arguments = [*chosen.arguments(), *(word for reference in policies for word in ("--policy", reference))]
    print_report(report(figures, f"gmvaluator bench precision {shlex.join(arguments)} --json"), as_json)


@bench.command()
@click.option("--images", default=20, show_default=True, type=click.IntRange(1, 60), help="Generated images.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@variant_options
@json_option
def crops(images: int, device: str, choice: ProfileChoice, as_json: bool) -> None:
    """Measure how far MANIQA's quality by fewer crops deviates from that by all 20, with the weights in --models.

    Example: gmvaluator bench crops --models ./models --images 20 --json
    """
    from gmvaluator.models.process_setup import prepare_process

    prepare_process()
    from evaluation.bench.precision import bench_crops

    chosen = replace(choice, crops=0)
    figures = bench_crops(chosen, device, images)
    arguments = [*chosen.arguments(), "--images", str(images), "--device", device]
    print_report(report(figures, f"gmvaluator bench crops {shlex.join(arguments)} --json"), as_json)


@bench.command()
@click.option(
    "--clients",
    default=400,
    show_default=True,
    type=click.IntRange(1, 1_000),
    help="Browsers that watch the dashboard.",
)
@click.option(
    "--credits",
    "credits_per_s",
    default=20_000,
    show_default=True,
    type=click.IntRange(500, 100_000_000),
    help="Credits per second.",
)
@click.option("--seconds", default=30.0, show_default=True, type=FiniteRange(5, 600), help="Seconds to measure.")
@click.option(
    "--past",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(1_000, 1_000_000_000),
    help="Earlier postings in the ledger.",
)
@json_option
def dashboard(clients: int, credits_per_s: int, seconds: float, past: int, as_json: bool) -> None:
    """Measure the load that browsers put on the dashboard, the lag of their updates, and its first paint.

    Example: gmvaluator bench dashboard --json
    """
    from evaluation.bench.dashboard import bench_dashboard

    figures = bench_dashboard(clients, credits_per_s, seconds, past)
    command = f"gmvaluator bench dashboard --clients {clients} --credits {credits_per_s} --seconds {seconds:g}"
    print_report(report(figures, f"{command} --past {past} --json"), as_json)
