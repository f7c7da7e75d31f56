"""Fit the policy that is shipped for profile `lite` to works of the sample's fit artists.

    python -m evaluation.known_source.shipped --data DATA --foreign FOLDER --policy calibrated@3

DATA: data folder whose index holds the sample. FOLDER: from `evaluation.images.make_foreign_set`. Writes the policy's
file to `gmvaluator/valuation/policies/`. An operator's own policy is fitted by `gmvaluator calibrate`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluation.images.sample import read_works
from evaluation.known_source.calibration import CONTRIBUTORS, REFITS, fit_parts_policy
from evaluation.known_source.observations import DEPTH, Observation, observed, search_all
from evaluation.known_source.policy_file import Extra, policy_text, write_policy
from evaluation.known_source.queries import PARTS_FIT, TEST, Plan, make_queries
from gmvaluator.ids import training_image_id
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.samples import sample_folder
from gmvaluator.valuation import policy

GROUPS = "nearest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data folder whose index holds the sample")
    parser.add_argument("--foreign", type=Path, help="folder of foreign images (default: those shipped)")
    parser.add_argument("--policy", default="calibrated@3", help="NAME@N (default: %(default)s)")
    options = parser.parse_args()
    prepare_process()
    models = load_models("lite")
    folder = sample_folder("openclipart")
    works = read_works(folder)
    ids = {key: training_image_id(work.sha256) for key, work in works.items()}

    def observe(plan: Plan) -> list[Observation]:
        queries = make_queries(plan, list(works.values()), folder, foreign=options.foreign)
        return observed(queries, ids, search_all(options.data / "index", models, queries))

    fitting = fit_parts_policy(observe(PARTS_FIT), observe(TEST), REFITS)
    text = policy_text(
        options.policy,
        models.identity.hash,
        DEPTH,
        CONTRIBUTORS,
        fitting.fit,
        fitting.fitted,
        fitting.refits,
        Extra(GROUPS),
    )
    path = write_policy(Path(policy.__file__).parent / "policies" / f"{options.policy}.toml", text)
    print(f"wrote {path}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
