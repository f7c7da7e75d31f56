"""The table of docs/scale.md: `python -m gmvaluator.planning.table` writes it anew between its marks."""

from __future__ import annotations

import sys
from pathlib import Path

from gmvaluator.planning.constants import Constants, shipped
from gmvaluator.planning.plan import Plan, make_plan
from gmvaluator.planning.wanted import PROFILES, Wanted

BEGIN, END = "<!-- plan: begin -->", "<!-- plan: end -->"
SIZES = ((1_000_000, 5.0), (100_000_000, 50.0), (5_000_000_000, 200.0))
_HEAD = (
    "| works | images/s | profile | nodes | decided by | RAM, GiB | disk, GiB | segments | search cores | disk reads/s "
    "| L4-hours to index | L4s to serve | ledger, GiB a day |\n" + "|---" * 13 + "|\n"
)


def table(measured: Constants) -> str:
    """Markdown: each size with each profile, everything else as `gmvaluator plan` has it by default."""
    return _HEAD + "".join(
        _row(make_plan(Wanted(images, qps, profile, vectors), measured))
        for images, qps in SIZES
        for profile, vectors in PROFILES.items()
    )


def _row(plan: Plan) -> str:
    figures = plan.figures
    cells = [
        f"{plan.wanted.images:,}",
        f"{plan.wanted.qps:g}",
        f"`{plan.wanted.profile}`",
        f"{plan.nodes:,}",
        plan.decided_by,
        _number(figures["index_ram_gib"]),
        _number(figures["index_disk_gib"]),
        _number(figures["segments"]),
        _number(figures["search_cores"]),
        _number(figures["disk_reads_per_s"]),
        _number(figures["index_gpu_hours"]),
        _number(figures["serving_gpus"]),
        _number(figures["ledger_gib_per_day"]),
    ]
    return f"| {' | '.join(cells)} |\n"


def _number(value: float) -> str:
    """Two figures that count, or three: nobody plans closer than that."""
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def with_table(page: str, measured: Constants) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(measured)}{END}{after}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_table(file.read_text(encoding="utf-8"), shipped()), encoding="utf-8")
