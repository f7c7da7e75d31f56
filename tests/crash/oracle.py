"""Random histories against the oracle: the same credits to the last micro-credit, in any order, batches and threads.

What the ledger has to say, worked out in the plainest way and without the product's code: fractions all through.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

from gmvaluator.accounts import ISSUANCE
from gmvaluator.ids import OwnerId, TrainingImageId, generation_id, sha256_hex, training_image_id
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ImageFacts, NewPosting
from gmvaluator.ledger.results import Outcome, Posted, Replayed
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.ports import Beneficiary, WorkCard
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import SAMPLE_PROFILE, SAMPLE_TIME
from gmvaluator.valuation.policy import load_policy

_DIGITS = Context(prec=60)
_CONTRIBUTORS = 50

Amounts = dict[tuple[str, str | None], int]
"""Micro-credits by account and work."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A training image near a generated one: distance in millionths, rights in parts per million by account."""

    work: str
    distance: int
    rights: Mapping[str, int]


@lru_cache(maxsize=100_000)
def _nearness(distance: int) -> Fraction:
    return Fraction(_DIGITS.exp(_DIGITS.divide(Decimal(-distance), Decimal(1_000_000))))


def dealt(amount: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """`amount` in whole parts: what each is due, rounded down; what is left goes to the largest remainders."""
    whole = sum(weights.values())
    due = {name: amount * weight / whole for name, weight in weights.items()}
    parts = {name: int(quota) for name, quota in due.items()}
    neediest = sorted(due, key=lambda name: (parts[name] - due[name], name))
    for name in neediest[: amount - sum(parts.values())]:
        parts[name] += 1
    return parts


def credits_of(quality: int, candidates: Sequence[Candidate]) -> Amounts:
    """What one generated image pays, by `paper@1`: exp(-distance) of the 50 nearest, times quality."""
    if not candidates:
        return {("unattributed", None): quality, ("issuance", None): -quality} if quality else {}
    nearest = sorted(candidates, key=lambda one: (one.distance, one.work))[:_CONTRIBUTORS]
    amounts: Amounts = {("issuance", None): -quality}
    credit = dealt(quality, {one.work: _nearness(one.distance) for one in nearest})
    for one in nearest:
        split = dealt(credit[one.work], {account: Fraction(share) for account, share in one.rights.items()})
        for account, part in split.items():
            amounts[account, one.work] = part
    return {place: amount for place, amount in amounts.items() if amount}


def totalled(parts: Sequence[Amounts]) -> dict[str, int]:
    """Sums by account, zeros left out."""
    sums: dict[str, int] = {}
    for amounts in parts:
        for (account, _), amount in amounts.items():
            sums[account] = sums.get(account, 0) + amount
    return {account: amount for account, amount in sums.items() if amount}


WORKS = [training_image_id(sha256_hex(str(number).encode())) for number in range(120)]
ACCOUNTS = [f"owner:{uuid.UUID(int=number + 1, version=4)}" for number in range(9)]
MOST_THREADS = 8

_PAPER = load_policy("paper@1")


@dataclass(frozen=True, slots=True)
class Case:
    """One posting, as the product builds it and as the oracle has it."""

    posting: NewPosting
    expected: Amounts


def cases(seed: int, count: int) -> Iterator[Case]:
    """`count` random cases; some ids come again, in every second history also for another image."""
    chance = random.Random(seed)
    conflicts = seed % 2 == 1
    for number in range(count):
        again = number and chance.random() < 0.1
        name = chance.randrange(number) if again else number
        image = random.Random(f"{seed}/{name}/{number if conflicts and again and chance.random() < 0.3 else ''}")
        yield _case(f"{seed}-{name}", image, chance)


def check_history(place: DataLocation, seed: int, count: int) -> list[str]:
    """Post a history, in order or shuffled among threads, as `seed` says; what is wrong with what comes of it.

    Seeds 2n and 2n + 1 are one history in both ways.
    """
    chance = random.Random(seed)
    history = list(cases(seed // 2, count))
    threads = 1 if seed % 2 == 0 else chance.randint(2, MOST_THREADS)
    if threads > 1:
        chance.shuffle(history)
    wrong = [f"seed {seed}: entries of {one.posting.generation_id}" for one in history if _entries(one) != one.expected]
    with open_ledger(place, write=True) as ledger:
        outcomes = _posted(ledger, history, threads, chance)
        wrong += [f"seed {seed}: {what}" for what in _wrong_outcomes(history, outcomes)]
        wrong += [f"seed {seed}: {what}" for what in _wrong_sums(ledger, history, outcomes)]
    return wrong


def _case(name: str, image: random.Random, chance: random.Random) -> Case:
    quality = image.choice((0, 1, 7, 999_999, 1_000_000, image.randrange(1_000_001), image.randrange(1_000_001)))
    works = image.sample(WORKS, image.choice((0, 1, 2, 3, 5, 8, 13, 60)))
    spread = image.choice((1, 5, 1_000, 2_000_001))
    near = [Candidate(str(work), image.randrange(spread), _rights(image)) for work in works]
    facts = ImageFacts(sha256_hex(str(image.random()).encode()), 64, 64, 1_000)
    valued = ValuedImage(
        "local", generation_id(name), SAMPLE_TIME, facts, "demo-1", "works", SAMPLE_PROFILE, quality, {}
    )
    chance.shuffle(near)
    found = [ScoredCandidate(TrainingImageId(uuid.UUID(one.work)), one.distance, 900_000) for one in near]
    cards = {TrainingImageId(uuid.UUID(one.work)): _card(one) for one in near}
    return Case(build_posting(valued, _PAPER, found, cards), credits_of(quality, near))


def _rights(image: random.Random) -> dict[str, int]:
    kind = image.random()
    if kind < 0.6:
        return {image.choice(ACCOUNTS): 1_000_000}
    if kind < 0.7:
        return {image.choice(("suspense", "held")): 1_000_000}
    if kind < 0.8:
        return dict.fromkeys(image.sample(ACCOUNTS, 2), 500_000)
    cuts = sorted(image.sample(range(1, 1_000_000), 2))
    accounts = [*image.sample(ACCOUNTS, 2), "suspense"]
    return dict(zip(accounts, (cuts[0], cuts[1] - cuts[0], 1_000_000 - cuts[1]), strict=True))


def _card(one: Candidate) -> WorkCard:
    paid = [
        Beneficiary(account, OwnerId(uuid.UUID(account[6:])) if account.startswith("owner:") else None, account, share)
        for account, share in one.rights.items()
    ]
    return WorkCard(TrainingImageId(uuid.UUID(one.work)), one.work, "", tuple(paid))


def _entries(one: Case) -> Amounts:
    amounts: Amounts = {}
    for entry in one.posting.entries:
        place = entry.account, str(entry.training_image_id) if entry.training_image_id else None
        amounts[place] = amounts.get(place, 0) + entry.amount_micros
    return amounts


def _posted(ledger: Ledger, history: Sequence[Case], threads: int, chance: random.Random) -> list[Outcome]:
    """Outcomes in the order of `history`, which is cut into batches that `threads` threads post."""
    batches: list[Sequence[Case]] = []
    left = history
    while left:
        size = chance.choice((1, 2, 7, 40, 200))
        batches.append(left[:size])
        left = left[size:]
    start = threading.Barrier(threads)

    def post(mine: Sequence[int]) -> list[tuple[int, list[Outcome]]]:
        start.wait()
        return [(number, ledger.post([one.posting for one in batches[number]])) for number in mine]

    with ThreadPoolExecutor(threads) as pool:
        shared = pool.map(post, [range(thread, len(batches), threads) for thread in range(threads)])
        by_batch = dict(answer for answers in shared for answer in answers)
    return [outcome for number in range(len(batches)) for outcome in by_batch[number]]


def _wrong_outcomes(history: Sequence[Case], outcomes: Sequence[Outcome]) -> Iterator[str]:
    first = {o.posting.key: o.posting for o in outcomes if isinstance(o, Posted)}
    made = Counter(o.posting.key for o in outcomes if isinstance(o, Posted))
    for one, outcome in zip(history, outcomes, strict=True):
        key = one.posting.key
        if made[key] != 1:
            yield f"{key} was posted {made[key]} times"
            return
        same = first[key].header.image_sha256 == one.posting.evidence.image.sha256
        if isinstance(outcome, Posted):
            continue
        if same != isinstance(outcome, Replayed) or (isinstance(outcome, Replayed) and outcome.posting != first[key]):
            yield f"{key} came again and was answered otherwise"


def _wrong_sums(ledger: Ledger, history: Sequence[Case], outcomes: Sequence[Outcome]) -> Iterator[str]:
    expected = totalled(
        [one.expected for one, outcome in zip(history, outcomes, strict=True) if isinstance(outcome, Posted)]
    )
    kept = {one.account: one.balance_micros for one in ledger.balances(limit=1_000).balances if one.balance_micros}
    issued = expected.pop(ISSUANCE, 0)
    totals = ledger.totals()
    if kept != expected or totals.issued_micros != -issued:
        yield f"balances are {kept}, the oracle says {expected}"
    if min(kept.values(), default=0) < 0:
        yield "a balance is negative"
    found = ledger.verify()
    if not (found.ok and totals.reconciles):
        yield found.text()
