"""Works of an operator's index that a calibration may change: a sample of them with their thumbnails and owners.

The thumbnails stand for the files: they are as large as the images that the recipes make.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from evaluation.images.sample import Work, read_foreign
from gmvaluator.accounts import OWNER_PREFIX
from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.catalogue.store import POLICY_FOLDER, open_if_present
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.images import thumbnail_path
from gmvaluator.index.opening import open_store
from gmvaluator.index.schema import require_profile
from gmvaluator.profile import ProfileIdentity
from gmvaluator.samples import sample_folder
from gmvaluator.storage.data_folder import require_index, thumbnails_folder
from gmvaluator.storage.database import DataLocation
from gmvaluator.valuation.policy import Policy, load_policy, shipped_policy

SAMPLED = 2_000
"""Maximum number of works that a calibration draws from."""

MIN_WORKS = 50
"""Minimum number of works: half of them are fitted to, the others are held out."""

MIN_OWNERS = 10
"""Owners from which on whole owners, and not only works, are held out."""


@dataclass(frozen=True, slots=True)
class OwnWorks:
    """Sampled works with their files below `folder`; `fit` and `test` have no owner, or else no work, in common.

    ids: by the works' keys. indexed: SHA-256 of the shipped foreign images that are in the index. foreign: folder of
    other foreign images, from `evaluation.images.make_foreign_set`; None for the shipped ones.
    """

    folder: Path
    fit: tuple[Work, ...]
    test: tuple[Work, ...]
    ids: dict[str, TrainingImageId]
    indexed: frozenset[str]
    foreign: Path | None = None


def read_own_works(place: DataLocation, location: str | Path, collection: str, identity: ProfileIdentity) -> OwnWorks:
    """Sample the works of a collection, the same each time, and split them.

    Raises MissingIndex, ProfileMismatch if another profile built the collection, and PreconditionFailed if too few
    works have a thumbnail.
    """
    require_index(location)
    foreign = {training_image_id(row.sha256): row.sha256 for row in read_foreign(sample_folder("foreign"))}
    with closing(open_store(location, collection, api_key=qdrant_api_key())) as store:
        require_profile(store.info(), identity)
        # An id is a hash of the content, so the first works in the order of ids are a random sample.
        sampled = [point.training_image_id for point in islice(store.scan(), SAMPLED)]
        indexed = frozenset(foreign[work] for work in store.existing(list(foreign)))
    folder = thumbnails_folder(place.folder)
    works = _works(place, [work for work in sampled if thumbnail_path(folder, work).is_file()], folder)
    if len(works) < MIN_WORKS:
        raise PreconditionFailed(
            f"{len(works)} of the {len(sampled)} works sampled from collection {collection!r} have a thumbnail in "
            f"{folder}, and a calibration needs {MIN_WORKS}: index more works, or name the folder of their thumbnails "
            "by --data"
        )
    fit, test = split(works)
    return OwnWorks(folder, fit, test, {str(work): work for work in sampled}, indexed)


def _works(place: DataLocation, ids: Sequence[TrainingImageId], folder: Path) -> list[Work]:
    """Return the works with the account of their first owner, or with an owner of their own if they have none."""
    with open_if_present(place) as catalogue:
        cards = {} if catalogue is None else catalogue.works(ids, datetime.now(UTC))
    works = []
    for work in ids:
        payees = cards[work].beneficiaries if work in cards else ()
        owner = next((payee.account for payee in payees if payee.account.startswith(OWNER_PREFIX)), str(work))
        works.append(Work(str(work), str(thumbnail_path(folder, work).relative_to(folder)), owner, ""))
    return works


def policies_in_use(place: DataLocation, collection: str, identity: ProfileIdentity) -> list[Policy]:
    """Return the policies that value images by a collection now: those of its generators that are for this profile.

    Without any, the policy that a generator would get by default, or the paper's. Raises InvalidPolicy if one cannot be
    read.
    """
    folder = place.folder / POLICY_FOLDER
    with open_if_present(place) as catalogue:
        generators = [] if catalogue is None else catalogue.generators()
    references = sorted({generator.policy for generator in generators if generator.collection == collection})
    bound = [load_policy(reference, folder) for reference in references]
    usable = [policy for policy in bound if policy.profile in (None, identity.hash)]
    return usable or [load_policy(shipped_policy(identity.hash) or "paper@1")]


def split(works: Sequence[Work]) -> tuple[tuple[Work, ...], tuple[Work, ...]]:
    """Divide the works into those to fit to and those held out, by whole owners where there are enough of them.

    Where there are few, or one has half of the works, the works themselves are divided, each as if it had an owner of
    its own.
    """
    counts = Counter(work.owner_id for work in works)
    if len(counts) < MIN_OWNERS or max(counts.values()) > len(works) // 2:
        works = [Work(work.key, work.file_name, work.key, work.sha256) for work in works]
        counts = Counter(work.owner_id for work in works)
    fit_owners: set[str] = set()
    taken = 0
    for owner in _shuffled(counts):
        if taken < len(works) // 2:
            fit_owners.add(owner)
            taken += counts[owner]
    fit = tuple(work for work in works if work.owner_id in fit_owners)
    return fit, tuple(work for work in works if work.owner_id not in fit_owners)


def _shuffled(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"calibrate/{name}".encode()).hexdigest())
