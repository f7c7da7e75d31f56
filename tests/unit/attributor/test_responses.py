"""Stages of an answer about an image that shows works in parts of it."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from attributor.core.attribution import Attribution, ImageRequest, Timings
from attributor.core.responses import final_stage, reranked_stage
from attributor.rpc.messages import attribution_message
from gmvaluator.ids import generation_id
from gmvaluator.ledger.allocation import group_candidates
from gmvaluator.ledger.posting import candidates_from_evidence, content_of
from gmvaluator.ledger.records import Evidence
from gmvaluator.testing.postings import PARTS_POLICY, sample_card, sample_collage, sample_work
from gmvaluator.valuation.parts import mask_bytes

REQUEST = ImageRequest("local", generation_id("collage-0"), "demo-1", None, datetime(2026, 1, 31, tzinfo=UTC))
CARDS = {sample_work(number): sample_card(number) for number in range(3)}


def reranked(evidence: Evidence) -> Attribution:
    groups = group_candidates(candidates_from_evidence(evidence), PARTS_POLICY)
    return reranked_stage(REQUEST, PARTS_POLICY, groups, content_of(evidence), CARDS, Timings())


def final(evidence: Evidence) -> Attribution:
    return final_stage(REQUEST, evidence, CARDS, Timings())


@pytest.mark.parametrize("stage", [reranked, final])
def test_verified_works_say_how_much_of_the_image_shows_them(stage: Callable[[Evidence], Attribution]) -> None:
    evidence = sample_collage().evidence
    message = attribution_message(stage(evidence))
    for row, contribution in zip(message.contributors, evidence.contributions, strict=True):
        assert row.training_image_id == str(contribution.training_image_id)
        assert row.share == pytest.approx(contribution.share)
        assert row.HasField("visible") == (contribution.inliers is not None)
    shares = [round(row.visible.image_share, 6) for row in message.contributors if row.HasField("visible")]
    assert shares == [0.333333, 0.666667]
    first = message.contributors[0].visible
    assert first.inliers == 41
    assert first.image_cells == mask_bytes(evidence.contributions[0].sighting.region)
    assert first.work_cells == mask_bytes(evidence.contributions[0].work_mask)
