"""Releases, reversals, re-attributions and comparisons of postings."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import GenerationConflict, InvalidInput, NotFound, PreconditionFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.decision import Decision, Links, NewDecision, decision_id
from gmvaluator.ledger.decisions.dispute_holds import decide_dispute, open_dispute
from gmvaluator.ledger.decisions.disputes import Scope, checked_award
from gmvaluator.ledger.decisions.release import release_all
from gmvaluator.ledger.decisions.revaluation import compare
from gmvaluator.ledger.decisions.reversal import reattribute, reverse
from gmvaluator.ledger.store import open_ledger
from gmvaluator.ports import WorkCard
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_posting, sample_work
from gmvaluator.valuation.policy import Policy, load_policy
from tests.support.scenes import (
    NOVEMBER,
    OCTOBER,
    SEPTEMBER,
    attribute,
    balances,
    import_rights,
    is_sound,
    owner_named,
    post_decisions,
    record,
    sha256_of,
    work,
)

HEAD = "sha256,owner_id,owner_name,share_ppm,valid_from,valid_to,origin\n"
NEAREST = Policy.from_parameters({"policy": "nearest@1", "depth": 10, "k": 1, "temperature": "1"})


UNSURE = Policy.from_parameters(
    {
        "policy": "unsure@1",
        "depth": 10,
        "k": 5,
        "temperature": "0.01",
        "uncertainty": {"replicates": [{"temperature": "0.0005"}, {"temperature": "5"}], "hold_above": "0.3"},
    }
)
"""A policy that holds back the credit of both of two works that are equally near."""


def release(place: DataLocation, dry_run: bool = False, unsure: bool = False) -> list[str]:
    """Release what is due; return the ids of the decisions."""
    with open_catalogue(place) as catalogue, open_ledger(place, write=True) as book:
        releases = release_all(book, catalogue, "known now", NOVEMBER, dry_run, unsure)
        return [str(release.decision.decision_id) for release in releases]


def test_uncertain_credits_are_released_on_request_only(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ada"), work(2, "ben"), work(3, None))
    attribute(place, "g1", [1, 2], SEPTEMBER, policy=UNSURE)
    attribute(place, "g2", [3], SEPTEMBER)
    ada, ben = (f"owner:{owner_named(place, name)}" for name in ("ada", "ben"))
    with open_ledger(place) as book:
        assert balances(book) == {"held": 1_000_000, "suspense": 1_000_000}
    import_rights(place, tmp_path, HEAD + f"{sha256_of(3)},ben,,1000000,,,\n")
    assert release(place) == ["release/2/1"]
    assert release(place) == []
    assert release(place, unsure=True) == ["release/1/1"]
    assert release(place, unsure=True) == []
    with open_ledger(place) as book:
        paid = balances(book)
        assert is_sound(book)
    assert set(paid) == {ada, ben}
    assert paid[ada] > 500_000
    assert paid[ada] + paid[ben] == 2_000_000


def test_reattribution_by_a_certain_policy_pays_what_was_held_back(place: DataLocation) -> None:
    record(place, work(1, "ada"), work(2, "ben"))
    posting = attribute(place, "g1", [1, 2], SEPTEMBER, policy=UNSURE)
    with open_ledger(place, write=True) as book:
        reattribute(book, posting, NEAREST, {}, "a better fit", NOVEMBER)
        assert balances(book) == {f"owner:{owner_named(place, 'ada')}": 1_000_000}
        assert is_sound(book)
    assert release(place, unsure=True) == []


def test_suspense_is_released_to_the_owner_at_the_generations_time(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None), work(2, "ada"))
    attribute(place, "g1", [1], SEPTEMBER)
    attribute(place, "g2", [1], OCTOBER)
    assert release(place) == []
    import_rights(
        place,
        tmp_path,
        HEAD + f"{sha256_of(1)},ada,,1000000,,2026-10-01,\n" + f"{sha256_of(1)},ben,Ben,1000000,2026-10-01,,\n",
    )
    assert release(place, dry_run=True) == ["release/1/1", "release/2/1"]
    assert release(place) == ["release/1/1", "release/2/1"]
    assert release(place) == []
    with open_ledger(place) as book:
        ada, ben = owner_named(place, "ada"), owner_named(place, "ben")
        assert balances(book) == {f"owner:{ada}": 1_000_000, f"owner:{ben}": 1_000_000}
        assert book.totals().suspense_micros == 0
        assert is_sound(book)
        assert Decision.from_json(book.posting_of_generation("release/1/1").evidence_json).reason == "known now"


def test_held_credits_are_released_when_a_claim_is_withdrawn(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ada"), work(1, "ben", "posters"), work(2, "ada"))
    attribute(place, "g1", [1, 2], OCTOBER)
    with open_ledger(place) as book:
        assert book.totals().held_micros == 500_250
    import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ben,,0,,,data_set:posters\n")
    release(place)
    with open_ledger(place) as book:
        assert balances(book) == {f"owner:{owner_named(place, 'ada')}": 1_000_000}
        assert is_sound(book)


def test_partial_rights_release_a_part(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None))
    attribute(place, "g1", [1], OCTOBER, quality=7)
    import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ada,Ada,250000,,,\n", partial=True)
    assert release(place) == ["release/1/1"]
    assert release(place) == []
    import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ada,,250000,,,\n{sha256_of(1)},ben,Ben,750000,,,\n")
    assert release(place) == ["release/1/2"]
    with open_ledger(place) as book:
        assert sorted(balances(book).values()) == [2, 5]
        assert is_sound(book)


def test_later_sale_of_a_work_moves_no_credits(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ada"))
    attribute(place, "g1", [1], OCTOBER)
    with open_ledger(place) as book:
        before = balances(book)
    rows = f"{sha256_of(1)},ada,,0,,,data_set:paintings\n{sha256_of(1)},ben,Ben,1000000,,,data_set:paintings\n"
    import_rights(place, tmp_path, HEAD + rows)
    assert release(place) == []
    with open_ledger(place) as book:
        assert balances(book) == before


def test_reversal_takes_back_once(place: DataLocation) -> None:
    record(place, work(1, "ada"), work(2, None))
    original = attribute(place, "g1", [1, 2], OCTOBER)
    attribute(place, "g2", [1], OCTOBER)
    with open_ledger(place, write=True) as book:
        first = reverse(book, original, "a test image", NOVEMBER)
        assert first.header.issued_micros == -1_000_000
        assert reverse(book, original, "once more", NOVEMBER) == first
        assert list(balances(book).values()) == [1_000_000]
        assert book.totals().issued_micros == 1_000_000
        assert book.posting_of_generation("g1") == original
        assert is_sound(book)
        with pytest.raises(InvalidInput, match="decision"):
            reverse(book, first, "back again", NOVEMBER)


def test_generation_that_issued_nothing_is_not_reversed(place: DataLocation) -> None:
    record(place, work(1, "ada"))
    original = attribute(place, "g1", [1], OCTOBER, quality=0)
    with open_ledger(place, write=True) as book, pytest.raises(NotFound):
        reverse(book, original, "a test image", NOVEMBER)


def test_reattribution_posts_the_difference(place: DataLocation) -> None:
    record(place, work(1, "ada"), work(2, "ben"))
    original = attribute(place, "g1", [1, 2], OCTOBER)
    with open_ledger(place, write=True) as book:
        posting = reattribute(book, original, NEAREST, {}, "agreed", NOVEMBER)
        assert (posting.header.policy, posting.header.issued_micros) == ("nearest@1", 0)
        assert balances(book) == {f"owner:{owner_named(place, 'ada')}": 1_000_000}
        back = reattribute(book, original, load_policy("paper@1"), {}, "appealed", NOVEMBER)
        assert back.header.generation_id == "reattribution/1/2"
        assert balances(book) == original.changes()
        reverse(book, original, "and away", NOVEMBER)
        again = reattribute(book, original, NEAREST, {}, "issued anew", NOVEMBER)
        assert again.header.issued_micros == 1_000_000
        assert book.posting_of_generation("g1").evidence.policy["policy"] == "paper@1"
        assert is_sound(book)


def test_reattribution_is_refused_after_an_award(place: DataLocation) -> None:
    record(place, work(1, "ada"), work(2, "ben"))
    original = attribute(place, "g1", [1, 2], OCTOBER)
    ada, ben = owner_named(place, "ada"), owner_named(place, "ben")
    with open_ledger(place, write=True) as book:
        for case, award in (("case-1", None), ("case-2", checked_award([(ben, 1_000_000)]))):
            open_dispute(book, case, Scope(sample_work(1), None, ben), "drawn by me", NOVEMBER)
            decide_dispute(book, case, award, "looked at", NOVEMBER)
            if award is None:
                reattribute(book, original, NEAREST, {}, "nothing was awarded", NOVEMBER)
                assert balances(book) == {f"owner:{ada}": 1_000_000}
        assert balances(book) == {f"owner:{ben}": 1_000_000}
        with pytest.raises(PreconditionFailed, match="case-2 awarded credits of generation g1"):
            reattribute(book, original, NEAREST, {}, "again", NOVEMBER)
        assert is_sound(book)


def test_reattribution_pays_released_works_by_the_rights_of_the_release(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None), work(2, "ben"))
    original = attribute(place, "g1", [1, 2], SEPTEMBER)
    import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ada,Ada,1000000,,,\n")
    release(place)
    with open_ledger(place, write=True) as book:
        reattribute(book, original, NEAREST, {}, "agreed", NOVEMBER)
        assert balances(book) == {f"owner:{owner_named(place, 'ada')}": 1_000_000}
        assert is_sound(book)


def test_rights_of_many_works_are_queried_in_batches(place: DataLocation) -> None:
    record(place, *(work(number, None) for number in range(1, 6)), work(6, "ada"))
    attribute(place, "g1", [1, 2, 3], OCTOBER)
    attribute(place, "g2", [4, 5, 6], OCTOBER)
    batches: list[int] = []

    class RecordingRights:
        def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
            batches.append(len(ids))
            with open_catalogue(place) as catalogue:
                return catalogue.works(ids, at)

    with open_ledger(place, write=True) as book:
        assert list(release_all(book, RecordingRights(), "known now", NOVEMBER, works_per_query=2)) == []
    assert batches == [2, 2, 1]


def test_comparison_posts_nothing_and_shows_both_sides(place: DataLocation) -> None:
    record(place, work(1, "ada"), work(2, "ben"))
    attribute(place, "g1", [1, 2], OCTOBER)
    attribute(place, "g2", [2], OCTOBER)
    with open_ledger(place) as book:
        before = book.head()
        comparison = compare(book.every_posting(), NEAREST, None).as_dict()
        same = compare(book.every_posting(), load_policy("paper@1"), None).as_dict()
        assert book.head() == before
    ada, ben = f"owner:{owner_named(place, 'ada')}", f"owner:{owner_named(place, 'ben')}"
    sides = {line["account"]: (line["posted_micros"], line["compared_micros"]) for line in comparison["accounts"]}
    assert sides == {ada: (500_250, 1_000_000), ben: (1_499_750, 1_000_000)}
    assert (comparison["generations"], comparison["changed"], comparison["issued_micros"]) == (2, 1, 2_000_000)
    assert same["changed"] == 0
    assert all(line["difference_micros"] == 0 for line in same["accounts"])


def test_only_one_decision_is_posted_for_a_revision(place: DataLocation) -> None:
    record(place, work(1, "ada"))
    original = attribute(place, "g1", [1], OCTOBER)
    with open_ledger(place, write=True) as book:
        reverse(book, original, "first", NOVEMBER)
        late = Decision("hold", "late", {"lines": []}, Links(original.sequence, 1, "case-1"))
        with pytest.raises(Exception, match="cannot be posted"):
            post_decisions(book, [NewDecision(decision_id("hold", 1, 1), NOVEMBER, late)])
        assert is_sound(book)


def test_decision_id_is_used_once(place: DataLocation) -> None:
    decision = Decision("dispute", "a", {"training_image_id": None}, Links(dispute_id="x"))
    with open_ledger(place, write=True) as book:
        first = post_decisions(book, [NewDecision(decision_id("dispute", "x"), NOVEMBER, decision)])
        assert post_decisions(book, [NewDecision(decision_id("dispute", "x"), OCTOBER, decision)]) == first
        other = Decision("dispute", "b", {"training_image_id": None}, Links(dispute_id="x"))
        with pytest.raises(GenerationConflict, match="reason"):
            post_decisions(book, [NewDecision(decision_id("dispute", "x"), NOVEMBER, other)])
        (refused,) = book.post([sample_posting(1, identity="@ledger")])
        assert "does not begin with @" in str(refused.error)  # type: ignore[union-attr]


def test_disputed_generation_is_not_corrected(place: DataLocation) -> None:
    record(place, work(1, "ada"))
    original = attribute(place, "g1", [1], OCTOBER)
    with open_ledger(place, write=True) as book:
        open_dispute(book, "case-1", Scope(None, original.sequence), "mine", NOVEMBER)
        with pytest.raises(PreconditionFailed, match="decide it first"):
            reverse(book, original, "x", NOVEMBER)
        with pytest.raises(PreconditionFailed, match="decide it first"):
            reattribute(book, original, NEAREST, {}, "x", NOVEMBER)
