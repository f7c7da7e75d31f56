"""What the demo prints of its images, and what it suggests next."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import rich_click as click

from gmvaluator.client.sync import AttributorClient
from gmvaluator.commands import demo as module
from gmvaluator.commands.demo import (
    DEFAULT_DEMO_DATA,
    LINE_CHARACTERS,
    chosen_images,
    credits_by_account,
    generated_images,
    image_line,
    next_steps,
    previews_by_paper,
)
from gmvaluator.commands.main import gmvaluator
from gmvaluator.v1 import attribution_pb2 as attribution_v1


def image(*earned_micros: int, key: str = "work") -> dict[str, Any]:
    contributors = [
        {
            "key": f"{key}-{number}",
            "credit_micros": micros,
            "share": micros / 1e6,
            "payees": [{"display_name": f"Artist {number}", "account": "suspense"}],
        }
        for number, micros in enumerate(earned_micros)
    ]
    return {"file": "a.webp", "stages": [{"contributors": contributors, "unattributed_share": 0.25}]}


def test_an_image_is_one_line_with_the_contributor_that_earned_most() -> None:
    line = image_line(image(100_000, 600_000, 50_000))
    assert line.split() == ["a.webp", "60%", "to", "Artist", "1", "for", "work-1"]
    for nothing in (image(), image(0, 0)):
        assert image_line(nothing).split() == ["a.webp", "unattributed:", "no", "work", "is", "near"]
    assert len(image_line(image(600_000, key="long" * 100))) == LINE_CHARACTERS


def test_the_images_shown_are_of_every_kind() -> None:
    images = [{"file": path.name} for path in generated_images(0)]
    shown = chosen_images(images)
    assert len(shown) == 6
    assert {file["file"].split("-")[1] for file in shown} == {"crop", "hue", "mirror_blur", "outline", "compose"}
    assert chosen_images([]) == []
    assert chosen_images(images[:1]) == images[:1]


@pytest.mark.parametrize("data", [Path(DEFAULT_DEMO_DATA), Path("my pictures/demo")])
def test_every_suggested_command_can_be_given_and_finds_the_demos_data(data: Path) -> None:
    suggested = [shlex.split(line, comments=True)[1:] for line in next_steps(data, "demo-lite")[1:]]
    assert [words[0] for words in suggested] == ["demo", "serve", "attribute", "index"]
    for words in suggested:
        command: click.Command = gmvaluator
        while isinstance(command, click.Group):
            subcommand = command.get_command(click.Context(command), words.pop(0))
            assert subcommand is not None
            command = subcommand
        options = command.make_context("suggested", [*words], resilient_parsing=True).params
        # Only these two read what the demo made by itself.
        if command.name in ("demo", "serve"):
            assert Path(options["data"]) == data


def test_a_suggested_command_names_the_program_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/gmvaluator", "demo"])
    for on_path, program in ((None, ".venv/bin/gmvaluator"), ("/usr/bin/gmvaluator", "gmvaluator")):
        monkeypatch.setattr(module, "which", lambda _, found=on_path: found)
        assert next_steps(Path("x"), "demo-lite")[1].split()[0] == program


def test_what_the_paper_would_pay_is_the_last_stage_of_a_preview(tmp_path: Path) -> None:
    class Client:
        def preview(self, image: bytes, model_version: str, policy: str) -> Iterator[attribution_v1.Attribution]:
            assert (image, model_version, policy) == (b"an image", "demo-lite", "paper@1")
            payee = attribution_v1.Payee(account="suspense", credit_micros=7)
            for amount in (0, 3):
                contributors = [attribution_v1.Contributor(payees=[payee])]
                yield attribution_v1.Attribution(unattributed_micros=amount, contributors=contributors)

    path = tmp_path / "image.png"
    path.write_bytes(b"an image")
    client = cast("AttributorClient", Client())
    assert credits_by_account(previews_by_paper(client, "demo-lite", [path, path])) == {
        "unattributed": 6,
        "suspense": 14,
    }


def test_credits_are_summed_by_account_over_all_images() -> None:
    payees = [{"account": "owner:a", "credit_micros": 3}, {"account": "suspense", "credit_micros": 4}]
    finals = [{"unattributed_micros": 5, "contributors": [{"payees": payees}, {"payees": payees[:1]}]}] * 2
    assert credits_by_account(finals) == {"unattributed": 10, "owner:a": 12, "suspense": 8}
