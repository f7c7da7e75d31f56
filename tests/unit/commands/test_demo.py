"""What the demo prints of an image, and what it suggests next."""

from pathlib import Path
from typing import Any

from gmvaluator.commands.demo import _next_steps, image_line


def image(*earned_micros: int) -> dict[str, Any]:
    contributors = [
        {
            "key": f"work-{number}",
            "credit_micros": micros,
            "share": micros / 1e6,
            "payees": [{"display_name": f"Artist {number}", "account": "suspense"}],
        }
        for number, micros in enumerate(earned_micros)
    ]
    return {"file": "a.webp", "stages": [{"contributors": contributors, "unattributed_share": 0.25}]}


def test_an_image_is_one_line_with_the_contributor_that_earned_most() -> None:
    line = image_line(image(100_000, 600_000, 50_000))
    assert line.strip() == "a.webp: work-1 by Artist 1 earns 0.600000 (60%), unattributed 25%"
    for nothing in (image(), image(0, 0)):
        assert image_line(nothing).strip() == "a.webp: unattributed 25%"


def test_every_suggested_command_that_reads_the_demos_data_names_its_folder() -> None:
    lines = [line for line in _next_steps(Path("./demo"), "demo-lite") if "gmvaluator" in line]
    assert lines
    for line in lines:
        assert "--data demo" in line or "attribute" in line or "index add" in line
