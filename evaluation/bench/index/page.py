"""Tables and plots of docs/results/vector-index.md, from the report that `gmvaluator bench index --json` printed.

python -m evaluation.bench.index.page docs/results/bench-index.json docs/results/vector-index.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.report.plots import COLOURS, draw
from gmvaluator.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN, END = "<!-- figures: python -m evaluation.bench.index.page -->", "<!-- end of figures -->"
Row = Mapping[str, Any]

_PLAIN = (
    ("indexing_to_embed_ratio", "indexing against the bare decode + embed loop, one core each", "≥ 0.95"),
    ("points_per_s", "points/s when embeddings are given, one perceptual view of 512", "≥ 5,000"),
    ("points_per_s_ten_views", "points/s, ten perceptual views of 514 as `lite` has", ""),
    ("recall_at_50", "recall@50, works of ten views", "≥ 0.99"),
    ("two_stage_p50_ms", "two-stage query, p50, ms", "≤ 10"),
    ("two_stage_p99_ms", "two-stage query, p99, ms", "≤ 10"),
    ("query_p99_during_build_ms", "two-stage query while the index is built, p99, ms", ""),
    ("code_bytes_per_vector", "bytes of a code at x32", "≤ 4·D/32 = 64"),
    ("growth_p99_ratio_1m_to_100k", "p99 at 1 M against 100 k", "≤ 2"),
    ("intrinsic_dimension", "intrinsic dimension (TwoNN) of the vectors", ""),
    ("intrinsic_dimension_of_pictures", "the same of the pictures as they are", ""),
)


def write_page(report: Row, page: Path) -> None:
    """Write the tables into the page, between BEGIN and END. Raises InvalidInput if it lacks one of these lines."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise InvalidInput(f"{page} has no place for the figures: put the lines {BEGIN!r} and {END!r} into it")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{_tables(report)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def write_plots(figures: Row, folder: Path) -> None:
    """Draw `bench-index-recall.svg` and, if there are several numbers of points, `bench-index-growth.svg`."""
    if figures.get("compressions"):
        svg = draw(lambda axes: _recall(axes, figures["compressions"]), 6.8, 3.8)
        (folder / "bench-index-recall.svg").write_text(svg + "\n", encoding="utf-8")
    if len(figures.get("growth", ())) > 1:
        svg = draw(lambda axes: _growth(axes, figures["growth"]), 6.8, 3.6)
        (folder / "bench-index-growth.svg").write_text(svg + "\n", encoding="utf-8")


def _recall(axes: Axes, rows: Sequence[Row]) -> None:
    series = (
        ("recall_at_50", "rescored", "o", COLOURS[0], "code_bytes_per_vector"),
        ("recall_at_50_unrescored", "by code alone", "^", COLOURS[1], "code_bytes_per_vector"),
        ("faiss_recall_at_50_unrescored", "FAISS IVFPQ by code alone", "x", COLOURS[4], "faiss_code_bytes_per_vector"),
    )
    for name, label, marker, colour, size in series:
        axes.plot([row[size] for row in rows], [row[name] for row in rows], marker, color=colour, label=label)
    for row in rows:
        position = (row["code_bytes_per_vector"], row["recall_at_50_unrescored"])
        axes.annotate(row["quantisation"], position, textcoords="offset points", xytext=(5, -11), fontsize=8)
    sizes = [32, 64, 128, 256, 512]
    axes.set_xscale("log", base=2)
    axes.set(xlabel="bytes of a code", ylabel="recall@50", xticks=sizes, xticklabels=[str(size) for size in sizes])
    axes.set_xlim(26, 800)
    axes.legend(loc="lower right")


def _growth(axes: Axes, rows: Sequence[Row]) -> None:
    points = [row["points"] for row in rows]
    axes.plot(points, [row["two_stage_p99_ms"] for row in rows], "o-", label="p99")
    axes.plot(points, [row["two_stage_p50_ms"] for row in rows], "o-", label="p50")
    axes.set_xscale("log")
    axes.set(xlabel="vectors", ylabel="two-stage query, ms")
    axes.set(xticks=points, xticklabels=[f"{count:,}" for count in points])
    axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.legend()


def _tables(report: Row) -> str:
    figures = report["figures"]
    parts = [_plain(figures), f"Measured by `{report['command']}` at commit {report['commit']}, {_machine(report)}."]
    if figures.get("compressions"):
        parts += [
            "### Compression",
            _compressions(figures["compressions"]),
            _picture("recall by bytes of a code", "recall"),
        ]
    if figures.get("growth"):
        parts += ["### Growth", _grown(figures["growth"])]
    if len(figures.get("growth", ())) > 1:
        parts.append(_picture("time of a query by number of vectors", "growth"))
    return "\n\n".join(parts)


def _picture(what: str, name: str) -> str:
    return f"![{what}](bench-index-{name}.svg)"


def _machine(report: Row) -> str:
    machine = report["machine"]
    return f"on {machine['cores']} cores of {machine['processor']} with {machine['memory_gib']} GiB"


def _plain(figures: Row) -> str:
    rows = [[what, _number(figures[name]), goal] for name, what, goal in _PLAIN if figures.get(name) is not None]
    made = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in figures.get("made_by", {}).items() if count
    )
    rows.append(["vectors of `recall`", f"{figures['points']:,}: {made}", ""])
    return _table(["figure", "measured", "goal"], rows)


def _compressions(rows: Sequence[Row]) -> str:
    head = ["", "bytes", "by code", "rescored", "oversampling", "p50 ms", "p99 ms", "build s", "disk MB", "RAM MB",
            "FAISS by code", "FAISS rescored", "FAISS p50 ms", "FAISS build s"]  # fmt: skip
    names = ("code_bytes_per_vector", "recall_at_50_unrescored", "recall_at_50", "oversampling", "two_stage_p50_ms",
             "two_stage_p99_ms", "build_s", "disk_bytes", "ram_bytes", "faiss_recall_at_50_unrescored",
             "faiss_recall_at_50", "faiss_p50_ms", "faiss_build_s")  # fmt: skip
    return _table(head, [[f"`{row['quantisation']}`", *(_cell(row, name) for name in names)] for row in rows])


def _grown(rows: Sequence[Row]) -> str:
    head = ["vectors", "recall@50", "p50 ms", "p99 ms", "build minutes per million", "disk MB", "interpolated"]
    names = ("recall_at_50", "two_stage_p50_ms", "two_stage_p99_ms", "build_minutes_per_million", "disk_bytes")
    share = "interpolated_between_augmentations_of_one_picture"
    return _table(
        head,
        [[f"{row['points']:,}", *(_cell(row, name) for name in names), f"{row['made_by'][share]:,}"] for row in rows],
    )


def _cell(row: Row, name: str) -> str:
    return _number(row[name] / 1e6) if name.endswith("_bytes") else _number(row[name])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Write the tables into PAGE, and the plots next to REPORT; the arguments are REPORT and PAGE."""
    source, page = Path(sys.argv[1]), Path(sys.argv[2])
    report = json.loads(source.read_bytes())
    write_page(report, page)
    write_plots(report["figures"], source.parent)


if __name__ == "__main__":
    main()
