"""Policy files with errors, or with hostile content."""

from pathlib import Path

import pytest

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.policy import load_policy

GOOD = 'policy = "evil@1"\ndepth = 200\nk = 50\ntemperature = "1"\n'


def test_the_good_one_is_good(tmp_path: Path) -> None:
    (tmp_path / "evil@1.toml").write_text(GOOD, encoding="utf-8")
    assert load_policy("evil@1", tmp_path).k == 50


FILES: dict[str, str | bytes] = {
    "empty": "", "no TOML": "{", "JSON": '{"policy": "evil@1"}', "a cut line": GOOD[:-9], "another name": GOOD.replace("evil", "good"),
    "another version": GOOD.replace("@1", "@2"), "no version": GOOD.replace("@1", ""), "no k": GOOD.replace("k = 50\n", ""),
    "k of zero": GOOD.replace("50", "0"), "k below zero": GOOD.replace("50", "-1"), "k as text": GOOD.replace("50", '"50"'),
    "k as a fraction": GOOD.replace("50", "50.5"), "k of a million": GOOD.replace("50", "1_000_000"),
    "k that is true": GOOD.replace("50", "true"), "k above depth": GOOD.replace("200", "10"),
    "no depth": GOOD.replace("depth = 200\n", ""), "depth of a billion": GOOD.replace("200", "1_000_000_000"),
    "temperature of zero": GOOD.replace('"1"', '"0"'), "temperature below zero": GOOD.replace('"1"', '"-1"'),
    "temperature NaN": GOOD.replace('"1"', '"nan"'), "temperature inf": GOOD.replace('"1"', '"inf"'),
    "temperature as TOML's NaN": GOOD.replace('"1"', "nan"), "temperature as a list": GOOD.replace('"1"', "[1]"),
    "temperature as words": GOOD.replace('"1"', '"warm"'), "temperature of 10 KB": GOOD.replace('"1"', f'"{"9" * 10_000}"'),
    "temperature 1e999999": GOOD.replace('"1"', '"1e999999"'), "an unknown setting": GOOD + "bonus = 1\n",
    "a setting twice": GOOD + "k = 5\n", "a residual of text": GOOD + 'residual = "all"\n', "a quality of text": GOOD + 'quality = "1"\n',
    "a table deep": GOOD + "x" + ".x" * 500 + " = 1\n", "lists deep": GOOD + "x = " + "[" * 5_000 + "]" * 5_000 + "\n",
    "NUL": GOOD + "\0", "no UTF-8": GOOD.encode() + b"# \xff", "a million comments": GOOD + "# x\n" * 1_000_000 + "y = 1",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_policy_is_refused_whatever_is_wrong_with_it(tmp_path: Path, name: str) -> None:
    content = FILES[name]
    (tmp_path / "evil@1.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidPolicy, match="evil@1"):
        load_policy("evil@1", tmp_path)


@pytest.mark.parametrize(
    "reference",
    ["../paper@1", "paper", "paper@", "@1", "paper@0", "paper@1/../paper@1", "paper@1.toml", "paper@-1", "Paper@1"],
)
def test_a_reference_names_no_other_file(tmp_path: Path, reference: str) -> None:
    (tmp_path.parent / "paper@1.toml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(InvalidPolicy):
        load_policy(reference, tmp_path)
