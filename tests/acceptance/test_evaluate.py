"""The short report, made by the commands that make the long one."""

import json
from pathlib import Path

import pytest

from gmvaluator.valuation.policy import load_policy
from tests.support.programs import gmvaluator, run


@pytest.mark.timeout(1800)
def test_the_short_report_is_one_page_with_every_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = gmvaluator("evaluate", "all", "--quick", "--out", out)
    assert json.loads((out / "results.json").read_text()) == result
    assert result["short"]
    assert {"credit_to_source_paper", "credit_to_source_calibrated", "ece"} <= set(result["figures"])
    assert result["figures"]["credit_to_source_calibrated"] > 5 * result["figures"]["credit_to_source_paper"]
    assert {"c1_mnist_k50", "c3_auc", "lds_reranked", "lds_reference"} <= set(result["figures"])
    page = (out / "index.html").read_text()
    assert all(section["title"] in page for section in result["sections"])
    again = run("evaluate", "all", "--quick", "--out", out)
    assert again.returncode == 0, again.stderr
    assert "known-source: done before" in again.stderr


@pytest.mark.timeout(1800)
def test_a_policy_is_fitted_to_an_index(data: Path) -> None:
    """The works of the index itself are changed, and its own policy is what the fit is compared with."""
    fitted = gmvaluator("calibrate", "--quick", "--policy", "mine@1", "--data", data)
    policy = load_policy("mine@1", data / "policies")
    assert Path(fitted["file"]) == data / "policies" / "mine@1.toml"
    assert policy.residual is not None
    figures = fitted["figures"]
    assert fitted["in_use"] == "paper@1"
    assert figures["held_out_log_likelihood"] > figures["held_out_log_likelihood_in_use"]
    assert figures["absent_share"] < 0.9
    bound = gmvaluator("generators", "add", "mine", "--data-set", "sample", "--policy", "mine@1", "--data", data)
    assert bound["policy"] == "mine@1"
    refused = run("calibrate", "--quick", "--policy", "paper@9", "--data", data)
    assert refused.returncode == 2
    assert "cannot be called paper" in refused.stderr
