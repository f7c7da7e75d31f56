"""What a new generator's token is bound to, unless it is said: generators from the catalogue, identity from the ledger.

The ledger knows an image by its generator identity and generation id. If callers get another identity, an image that
they send again is paid again, so that a token takes over the identity that posted for its generators before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from gmvaluator.auth.tokens import Token
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.schema import postings
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation

EVERY = "*"
"""Value of `--model-version` that binds a token to no generator."""


@dataclass(frozen=True, slots=True)
class GeneratorBinding:
    """What a token is bound to. model_versions: empty for every generator. notes: lines for the operator."""

    identity: str
    model_versions: tuple[str, ...]
    notes: tuple[str, ...]


def generator_binding(
    place: DataLocation, name: str, identity: str, model_versions: Sequence[str], tokens: Collection[Token]
) -> GeneratorBinding:
    """Return the binding of a new token. identity, model_versions: as given, or empty.

    Raises InvalidInput if several identities posted before, and none is given.
    """
    try:
        registered, posted = _registered(place), _posted(place)
    except GmvaluatorError as error:
        versions = tuple(version for version in model_versions if version != EVERY)
        why = " ".join(str(error).split())
        note = f"catalogue and ledger were not read ({why}): check --model-version and --generator yourself"
        return GeneratorBinding(identity or name, versions, (note, *_note_if_unbound(versions)))
    versions, notes = _versions(model_versions, registered)
    before = sorted({who for who, version in posted if not versions or version in versions})
    chosen, more = _identity(name, identity, before, tokens)
    return GeneratorBinding(chosen, versions, (*notes, *more))


def notes_of_versions(place: DataLocation, model_versions: Sequence[str]) -> list[str]:
    """Return notes for the operator about the generators that a token is bound to; EVERY binds it to none."""
    try:
        return _versions(model_versions, _registered(place))[1]
    except GmvaluatorError as error:
        return [f"the catalogue was not read ({' '.join(str(error).split())}): check --model-version yourself"]


def _versions(given: Sequence[str], registered: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the generators of a token, and notes: those given, or those that are registered now."""
    if EVERY in given:
        return (), _note_if_unbound(())
    versions = tuple(dict.fromkeys(given or registered))
    unknown = [version for version in versions if version not in registered]
    notes = [f"not registered yet: {', '.join(unknown)} (`gmvaluator generators add`)"] if unknown else []
    return versions, notes + _note_if_unbound(versions)


def _note_if_unbound(versions: Sequence[str]) -> list[str]:
    if versions:
        return []
    return ["the token may post for every generator: bind it by `gmvaluator token bind NAME --model-version ...`"]


def _identity(name: str, given: str, before: Sequence[str], tokens: Collection[Token]) -> tuple[str, list[str]]:
    """Return the identity of a token, and notes. before: identities that posted for its generators."""
    holders = {token.generator: token.name for token in tokens if token.generator}
    left = [identity for identity in before if identity not in holders]
    chosen = given or (name if name in before else "")
    if not chosen and len(left) == 1:
        note = f"it takes over the identity {left[0]}, which posted before: images sent again are not paid again"
        return left[0], [note]
    if not chosen and left:
        raise InvalidInput(
            f"images were posted under several identities before, {', '.join(left[:10])}: choose one, or a new one, by "
            "--generator; an image that is sent again under another identity is paid again"
        )
    chosen = chosen or name
    others = [f"{identity} (token {holders[identity]})" if identity in holders else identity for identity in before]
    if not before or chosen in before:
        return chosen, []
    note = f"images were posted before as {', '.join(others[:10])}: sent again as {chosen}, they are paid again"
    return chosen, [f"{note}; give --generator to go on under one of these"]


def _registered(place: DataLocation) -> list[str]:
    """Return the registered generators; none if there is no catalogue."""
    try:
        with open_catalogue(place) as catalogue:
            return [generator.model_version for generator in catalogue.generators()]
    except MissingData:
        return []


def _posted(place: DataLocation) -> set[tuple[str, str]]:
    """Return who posted for which generator, as (identity, model_version); none if there is no ledger."""
    try:
        with open_ledger(place) as book, book.snapshot() as connection:
            return _identities(connection)
    except MissingData:
        return set()


def _identities(connection: Connection) -> set[tuple[str, str]]:
    columns = postings.c.generator_identity, postings.c.model_version
    rows = connection.execute(select(*columns).where(postings.c.kind == ATTRIBUTION).distinct())
    return {(row[0], row[1]) for row in rows}
