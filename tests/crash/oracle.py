"""Oracle of the ledger: random histories of postings whose credits are computed independently of the product.

The oracle uses exact fractions and none of the product's arithmetic. Ledger and oracle must agree to the
micro-credit, for any order, batches and number of threads.
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
    """A training image near a generated one. distance: in millionths. rights: parts per million by account."""

    work: str
    distance: int
    rights: Mapping[str, int]


@lru_cache(maxsize=100_000)
def _similarity(distance: int) -> Fraction:
    return Fraction(_DIGITS.exp(_DIGITS.divide(Decimal(-distance), Decimal(1_000_000))))


def apportioned(amount: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Divide `amount` into whole parts in proportion to `weights`, by the largest remainder method."""
    total = sum(weights.values())
    quotas = {name: amount * weight / total for name, weight in weights.items()}
    parts = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (parts[name] - quotas[name], name))
    for name in by_remainder[: amount - sum(parts.values())]:
        parts[name] += 1
    return parts


def credits_of(quality: int, candidates: Sequence[Candidate]) -> Amounts:
    """Return the credits for a generated image by `paper@1`: quality, divided by exp(-distance) of the 50 nearest."""
    if not candidates:
        return {("unattributed", None): quality, ("issuance", None): -quality} if quality else {}
    nearest = sorted(candidates, key=lambda candidate: (candidate.distance, candidate.work))[:_CONTRIBUTORS]
    amounts: Amounts = {("issuance", None): -quality}
    credit = apportioned(quality, {candidate.work: _similarity(candidate.distance) for candidate in nearest})
    for candidate in nearest:
        shares = {account: Fraction(share) for account, share in candidate.rights.items()}
        for account, part in apportioned(credit[candidate.work], shares).items():
            amounts[account, candidate.work] = part
    return {key: amount for key, amount in amounts.items() if amount}


def totalled(parts: Sequence[Amounts]) -> dict[str, int]:
    """Return the sums by account, without zeros."""
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
    """A posting as the product builds it, and its amounts as the oracle computes them."""

    posting: NewPosting
    expected: Amounts


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield `count` random cases. Some ids are repeated; with an odd `seed`, some of these for another image."""
    chance = random.Random(seed)
    conflicts = seed % 2 == 1
    for number in range(count):
        again = number and chance.random() < 0.1
        name = chance.randrange(number) if again else number
        image = random.Random(f"{seed}/{name}/{number if conflicts and again and chance.random() < 0.3 else ''}")
        yield _case(f"{seed}-{name}", image, chance)


def check_history(location: DataLocation, seed: int, count: int) -> list[str]:
    """Post a random history to the ledger at `location`, and return its differences from the oracle.

    Seeds 2n and 2n + 1 post the same history: the former in order, the latter shuffled and from several threads.
    """
    chance = random.Random(seed)
    history = list(cases(seed // 2, count))
    threads = 1 if seed % 2 == 0 else chance.randint(2, MOST_THREADS)
    if threads > 1:
        chance.shuffle(history)
    problems = [f"entries of {case.posting.generation_id}" for case in history if _entries(case) != case.expected]
    with open_ledger(location, write=True) as ledger:
        outcomes = _posted(ledger, history, threads, chance)
        problems += [*_wrong_outcomes(history, outcomes), *_wrong_sums(ledger, history, outcomes)]
    return [f"seed {seed}: {problem}" for problem in problems]


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
    scored = [ScoredCandidate(_work_id(candidate), candidate.distance, 900_000) for candidate in near]
    cards = {_work_id(candidate): _card(candidate) for candidate in near}
    return Case(build_posting(valued, _PAPER, scored, cards), credits_of(quality, near))


def _work_id(candidate: Candidate) -> TrainingImageId:
    return TrainingImageId(uuid.UUID(candidate.work))


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


def _card(candidate: Candidate) -> WorkCard:
    beneficiaries = [
        Beneficiary(account, OwnerId(uuid.UUID(account[6:])) if account.startswith("owner:") else None, account, share)
        for account, share in candidate.rights.items()
    ]
    return WorkCard(_work_id(candidate), candidate.work, "", tuple(beneficiaries))


def _entries(case: Case) -> Amounts:
    """Return the amounts of the product's posting."""
    amounts: Amounts = {}
    for entry in case.posting.entries:
        key = entry.account, str(entry.training_image_id) if entry.training_image_id else None
        amounts[key] = amounts.get(key, 0) + entry.amount_micros
    return amounts


def _posted(ledger: Ledger, history: Sequence[Case], threads: int, chance: random.Random) -> list[Outcome]:
    """Post `history` in random batches from `threads` threads; return the outcomes in the order of `history`."""
    batches: list[Sequence[Case]] = []
    remaining = history
    while remaining:
        size = chance.choice((1, 2, 7, 40, 200))
        batches.append(remaining[:size])
        remaining = remaining[size:]
    start = threading.Barrier(threads)

    def post(numbers: Sequence[int]) -> list[tuple[int, list[Outcome]]]:
        start.wait()
        return [(number, ledger.post([case.posting for case in batches[number]])) for number in numbers]

    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(post, [range(thread, len(batches), threads) for thread in range(threads)])
        by_batch = dict(batch for result in results for batch in result)
    return [outcome for number in range(len(batches)) for outcome in by_batch[number]]


def _wrong_outcomes(history: Sequence[Case], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield ids that were not posted exactly once, and repetitions that were answered with another posting."""
    first = {outcome.posting.key: outcome.posting for outcome in outcomes if isinstance(outcome, Posted)}
    times = Counter(outcome.posting.key for outcome in outcomes if isinstance(outcome, Posted))
    for case, outcome in zip(history, outcomes, strict=True):
        key = case.posting.key
        if times[key] != 1:
            yield f"{key} was posted {times[key]} times"
            return
        same = first[key].header.image_sha256 == case.posting.evidence.image.sha256
        if isinstance(outcome, Posted):
            continue
        if same != isinstance(outcome, Replayed) or (isinstance(outcome, Replayed) and outcome.posting != first[key]):
            yield f"{key} was sent again and answered differently"


def _wrong_sums(ledger: Ledger, history: Sequence[Case], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield differences between the ledger's balances and the oracle's, and a failed verification."""
    expected = totalled(
        [case.expected for case, outcome in zip(history, outcomes, strict=True) if isinstance(outcome, Posted)]
    )
    rows = ledger.balances(limit=1_000).balances
    balances = {row.account: row.balance_micros for row in rows if row.balance_micros}
    issued = expected.pop(ISSUANCE, 0)
    totals = ledger.totals()
    if balances != expected or totals.issued_micros != -issued:
        yield f"balances are {balances}, the oracle computes {expected}"
    if min(balances.values(), default=0) < 0:
        yield "a balance is negative"
    verification = ledger.verify()
    if not (verification.ok and totals.reconciles):
        yield verification.text()
