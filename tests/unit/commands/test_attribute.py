"""`gmvaluator attribute` over a fake client: every image is answered or named, and what is printed of a stage."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gmvaluator.client.requests import DEADLINE_S
from gmvaluator.commands import attribute as command
from gmvaluator.commands.main import run
from gmvaluator.commands.overlays import by_credit
from gmvaluator.errors import Conflict, GmvaluatorError, InvalidImage, Overloaded, Unavailable, UnknownGenerator
from gmvaluator.region_outlines import colour
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.valuation.parts import WHOLE, mask_bytes

FINAL = attribution_v1.STAGE_FINAL
Contributor = attribution_v1.Contributor


def final(generation_id: str = "g", *contributors: Contributor) -> attribution_v1.Attribution:
    return attribution_v1.Attribution(
        generation_id=generation_id,
        stage=FINAL,
        contributors=contributors,
        quality=0.5,
        issued_micros=500_000,
        unattributed_micros=125_000,
        unattributed_share=0.25,
        sequence=7,
        head_hash=bytes(range(32)),
    )


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, list[Path]]]:
    """Run the command for images whose answers are given: None for a FINAL, or the error."""

    def send(*answers: GmvaluatorError | None, words: tuple[str, ...] = ()) -> tuple[int, list[Path]]:
        paths = [tmp_path / f"{number}.png" for number in range(len(answers))]
        by_content = {}
        for path, answer in zip(paths, answers, strict=True):
            path.write_bytes(path.name.encode())
            by_content[path.name.encode()] = answer

        class Client:
            def __init__(self, *_: Any) -> None:
                pass

            def __enter__(self) -> "Client":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def attribute(self, data: bytes, generation: str, _: str) -> Iterator[attribution_v1.Attribution]:
                error = by_content[data]
                if error is not None:
                    raise error
                yield final(generation)

        monkeypatch.setattr(command, "AttributorClient", Client)
        code = run(["attribute", "--model-version", "g1", *words, *map(str, paths)])
        return code, paths

    return send


Send = Callable[..., tuple[int, list[Path]]]


@pytest.mark.parametrize("error", [InvalidImage("it is no image"), Conflict("the id was used before")])
def test_an_image_that_is_refused_is_named_and_the_others_are_sent(
    send: Send, error: GmvaluatorError, capsys: pytest.CaptureFixture[str]
) -> None:
    code, paths = send(None, error, None, words=("--json",))
    output = capsys.readouterr()
    assert code == 1
    assert [json.loads(line)["file"] for line in output.out.splitlines()] == [str(paths[0]), str(paths[2])]
    assert output.err.splitlines() == [f"gmvaluator: {paths[1]}: {error}", "gmvaluator: 1 of 3 images were refused"]


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    send: Send, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = send(None, words=(str(tmp_path / "absent.png"), str(tmp_path)))
    output = capsys.readouterr()
    assert code == 1
    assert "0.png" in output.out
    assert "absent.png cannot be read" in output.err
    assert f"{tmp_path} cannot be read" in output.err


def test_the_only_image_gives_its_own_exit_code(send: Send, capsys: pytest.CaptureFixture[str]) -> None:
    assert send(InvalidImage("it is no image"))[0] == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "gmvaluator: it is no image\n")


@pytest.mark.parametrize(("error", "code"), [(Unavailable("gone"), 1), (UnknownGenerator("add it"), 2)])
def test_an_error_that_every_image_would_meet_ends_the_command(
    send: Send, error: GmvaluatorError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(None, error, None, None)[0] == code
    assert capsys.readouterr().err.splitlines()[0].endswith("1.png and 2 images after it were not answered")


def test_the_id_the_head_and_what_was_unattributed_are_printed(send: Send, capsys: pytest.CaptureFixture[str]) -> None:
    assert send(None)[0] == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "0.png sha256:" in output
    assert "unattributed 0.125000 (25.0%)" in output
    assert "more" not in output
    assert "head 7:0001020304050607" in output


def test_contributors_are_shown_by_what_is_shown_of_them() -> None:
    rows = [Contributor(key="near", credit_micros=1, share=0.9), Contributor(key="paid", credit_micros=9, share=0.1)]
    stage = final("g", *rows)
    assert [row.key for row in by_credit(stage)] == ["paid", "near"]
    stage.stage = attribution_v1.STAGE_RERANKED
    assert [row.key for row in by_credit(stage)] == ["near", "paid"]


def test_an_overloaded_attributor_is_asked_until_the_deadline_and_a_stopped_one_five_times() -> None:
    retries = command.RETRIES
    assert retries.pause_s(Overloaded("busy", 10), 500, DEADLINE_S) is not None
    assert retries.pause_s(Overloaded("busy", 10), 500, 0.001) is None
    assert retries.pause_s(Unavailable("gone"), 4, DEADLINE_S) is not None
    assert retries.pause_s(Unavailable("gone"), 5, DEADLINE_S) is None


def seen(key: str, share: float, mask: int, **fields: Any) -> Contributor:
    visible = attribution_v1.VisibleParts(
        inliers=41, image_cells=mask_bytes(mask), work_cells=mask_bytes(WHOLE), image_share=0.24
    )
    return Contributor(key=key, share=share, credit_micros=round(share * 1e6), visible=visible, **fields)


LEFT = sum(0xFF << 16 * row for row in range(16))


@pytest.fixture
def collages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Two images, for both of which four verified works and an unverified one are answered."""
    rows = [seen("a", 0.4, LEFT), Contributor(key="whole", share=0.2, credit_micros=200_000), seen("b", 0.15, ~LEFT)]
    rows += [seen("c", 0.12, 1), seen("d", 0.1, 2), seen("trace", 0.001, 4)]

    class Client:
        def __init__(self, *_: Any) -> None:
            pass

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def attribute(self, _: bytes, generation: str, __: str) -> Iterator[attribution_v1.Attribution]:
            yield final(generation, *rows)

    monkeypatch.setattr(command, "AttributorClient", Client)
    paths = [tmp_path / "one.png", tmp_path / "two.webp"]
    for path in paths:
        Image.new("RGB", (40, 40), "white").save(path)
    return paths


def attributed(*words: object) -> int:
    return run(["attribute", "--model-version", "g1", *map(str, words)])


def test_what_is_visible_of_a_work_is_printed_below_it(
    collages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert attributed(collages[0]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.endswith(" a"))
    assert lines[first + 1].strip() == "visible in 24% of the image, 41 matches"
    assert sum("visible" in line for line in lines) == 2
    assert max(map(len, lines[first : first + 4])) <= 80


def test_the_overlay_has_the_numbers_of_the_printed_list(
    collages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert attributed("--save-overlay", out, collages[0]) == 0
    printed = capsys.readouterr().out
    numbers = [
        line.split("distance")[0].split("similarity")[0].split()[-1]
        for line in printed.splitlines()
        if "credit" in line
    ]
    assert numbers == ["1", "2", "3", "4", "5"]
    assert "trace" not in printed
    assert f"{out} shows the regions of 4 works" in printed.replace("\n", "")
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert drawn.size == (768, 768)
        left, right = drawn.getpixel((96, 600)), drawn.getpixel((672, 600))
    # Tinted in the colours of numbers 1 and 3.
    assert left == tinted(colour(0))
    assert right == tinted(colour(2))


def tinted(name: str) -> tuple[int, ...]:
    channels = [int(name[start : start + 2], 16) for start in (1, 3, 5)]
    return tuple(round(255 + (channel - 255) * 41 / 255) for channel in channels)


def test_each_of_several_overlays_is_named_by_its_image(
    collages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attributed("--json", "--save-overlay", tmp_path / "seen.png", *collages) == 0
    assert {path.name for path in tmp_path.glob("seen*")} == {"seen-one.png", "seen-two.png"}
    output = capsys.readouterr()
    row = json.loads(output.out.splitlines()[0])["contributors"][0]
    assert row["visible"]["image_cells"] == mask_bytes(LEFT).hex()
    assert "seen-two.png shows the regions" in output.err


def test_an_overlay_is_refused_before_anything_is_sent(
    collages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.png").write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    same = tmp_path / "other" / "one.jpg"
    refusals: list[tuple[list[object], str]] = [
        ([tmp_path / "taken.png", collages[0]], "never overwrites"),
        ([tmp_path / "out.jpg", collages[0]], "ends in .png"),
        ([tmp_path / "absent" / "out.png", collages[0]], "does not exist"),
        ([tmp_path / "out.png", collages[0], same], "would both be drawn"),
    ]
    for words, text in refusals:
        assert attributed("--save-overlay", *words) == 2
        output = capsys.readouterr()
        assert text in output.err
        assert output.out == ""
    assert (tmp_path / "taken.png").read_bytes() == b"mine"
