"""The fit of a policy that counts parts uses the shares that the policy pays, and finds what made the examples."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image

from evaluation.known_source.observations import Observation, Retrieval
from evaluation.known_source.parts_fit import (
    START,
    PartsFit,
    bootstrap_parts,
    fit_parts,
    log_likelihood,
    parts_examples,
    plain_policy,
    shares,
)
from evaluation.known_source.queries import Query
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.ledger.allocation import group_candidates, parts_of
from gmvaluator.local_features.sightings import SeenParts
from gmvaluator.valuation.parts import WHOLE, Sighting
from gmvaluator.valuation.policy import Policy

K = 20
WORKS = [training_image_id(f"{number:064x}") for number in range(K + 10)]
LEFT, RIGHT = 0x00FF * (WHOLE // 0xFFFF), 0xFF00 * (WHOLE // 0xFFFF)


def observation(number: int, works: int, *, verified: bool = True, found: bool = True) -> Observation:
    """An image of the first two works, half each, among `works` candidates; of none if `found` is False."""
    rng = random.Random(number)
    distances = sorted(rng.randrange(300_000, 900_000) for _ in range(works))
    seen: dict[TrainingImageId, Sighting] = {WORKS[place]: Sighting(LEFT, 500_000 + place) for place in (2, 3)}
    if found:
        left, right = (Sighting(mask, 250_000, mask, 9 if verified else 0) for mask in (LEFT, RIGHT))
        seen |= {WORKS[0]: left, WORKS[1]: right}
    near = tuple(WORKS[:works])
    sources = {WORKS[0]: 0.5, WORKS[1]: 0.5} if found else {}
    query = Query("strips-2", 0, tuple((str(work), share) for work, share in sources.items()), f"artist {number % 5}",
                  Image.new("RGB", (8, 8)))  # fmt: skip
    retrieval = Retrieval(near, tuple(distances), near, tuple(distances), 0.9, seen=SeenParts(WHOLE, seen))
    return Observation(query, sources, retrieval)


OBSERVATIONS = [
    *(observation(number, K + 5) for number in range(6)),
    *(observation(number, K, verified=False) for number in range(6, 9)),
    *(observation(number, 8) for number in range(9, 11)),
    *(observation(number, K, found=False) for number in range(11, 20)),
]


def exact(settings: PartsFit, item: Observation) -> tuple[list[float], float]:
    policy = Policy.from_parameters({"policy": "plain@1", "depth": 200, "k": K, **settings.settings()})
    groups = group_candidates(item.retrieval.candidates(), policy)[:K]
    paid, rest = policy.shares([group.distance_millionths for group in groups], parts_of(groups, WHOLE))
    return list(paid), rest


@pytest.mark.parametrize("strength", [-6.0, 0.5, 4.0])
def test_fitted_shares_are_those_that_the_policy_pays(strength: float) -> None:
    fit = PartsFit((*START[:-1], strength))
    contributors, none = shares(parts_examples(OBSERVATIONS, plain_policy(200, K)), torch.tensor(fit.numbers))
    for row, item in enumerate(OBSERVATIONS):
        paid, rest = exact(fit, item)
        assert contributors[row, : len(paid)].tolist() == pytest.approx(paid, abs=2e-4)
        assert float(none[row]) == pytest.approx(rest, abs=2e-4)


def test_a_fit_raises_the_likelihood_and_is_the_same_each_time() -> None:
    examples = parts_examples(OBSERVATIONS, plain_policy(200, K))
    fit = fit_parts(examples, steps=10)
    assert fit.log_likelihood(examples) > float(log_likelihood(examples, torch.tensor(START)))
    assert fit_parts(examples, steps=10) == fit


def test_refits_differ_by_the_artists_that_were_drawn() -> None:
    examples = parts_examples(OBSERVATIONS, plain_policy(200, K))
    refits = bootstrap_parts(examples, PartsFit(START), 3)
    assert len({refit.numbers for refit in refits}) == 3
