"""The token file: hashes, roles and bindings of tokens, never a token itself.

JSON, `{"tokens": [{"name", "role", "sha256", "created_at", ...}]}`. A token is `gmv_` and 256 random bits, which cannot
be guessed, so a plain SHA-256 protects it. The file is replaced atomically, and running programs reload it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmvaluator.auth.roles import GENERATORS, Caller, Role
from gmvaluator.errors import InvalidInput, MissingData, NotFound, PreconditionFailed
from gmvaluator.files import FileLock, atomic_write, private_folder
from gmvaluator.ids import OwnerId

MAX_TOKENS = 1_000
"""Limit of tokens in a file."""

MAX_MODEL_VERSIONS = 100
"""Limit of generators that a token is bound to."""

MAX_FILE_BYTES = 1024 * 1024
"""Limit of the token file, bytes."""

MAX_TOKEN_CHARACTERS = 200
"""Limit of a token that a caller sends."""

_MAX_MODEL_VERSION_CHARACTERS = 200
_PREFIX = "gmv_"
_TOKEN_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """An entry of the token file.

    name: given by the operator, unique in the file. sha256: 64 hex digits over the token's characters. created_at,
    expires_at: UTC, ISO 8601; an empty expires_at never expires. generator: generator identity, of generators and
    embedders. owner: UUID, of owners. model_versions: generators whose images these may have valued; empty for every
    one.
    """

    name: str
    role: Role
    sha256: str
    created_at: str
    generator: str = ""
    owner: str = ""
    expires_at: str = ""
    model_versions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def caller(self) -> Caller:
        """The caller that the token authenticates."""
        owner = OwnerId(uuid.UUID(self.owner)) if self.owner else None
        return Caller(self.name, frozenset({self.role}), self.generator, owner, self.model_versions)

    def expired(self, now: datetime) -> bool:
        """Return True from `expires_at` on."""
        return bool(self.expires_at) and datetime.fromisoformat(self.expires_at) <= now


def new_token() -> str:
    """Return a new random token: `gmv_` and 43 characters of base64url."""
    return _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_TOKEN_BYTES)).rstrip(b"=").decode()


def token_sha256(token: str) -> str:
    """Return the hash of a token that the file stores."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a token file. Raises MissingData if it does not exist, PreconditionFailed if it cannot be used."""
    try:
        with path.open("rb") as file:
            # One byte over the limit shows that the file is too long, without reading all of it.
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingData(f"there is no {path}: make a token by `gmvaluator token new`") from error
    except OSError as error:
        raise PreconditionFailed(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parse(data)
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as error:
        raise PreconditionFailed(f"{path} is no file of tokens: {error}; fix it or restore a copy"[:400]) from error


def add_token(path: Path, token: Token) -> None:
    """Add a token to the file, which is created if it is absent. Raises InvalidInput if the name is taken."""
    with _changing(path) as tokens:
        if any(known.name == token.name for known in tokens):
            raise InvalidInput(f"a token named {token.name} exists: revoke it, or choose another --name")
        tokens.append(token)


def bind_token(path: Path, name: str, model_versions: Sequence[str]) -> Token:
    """Bind a generator's token to generators, to every one if there are none, and return it.

    Raises MissingData without a file, NotFound if no token has this name, InvalidInput for a token of another role.
    """
    if not path.exists():
        raise MissingData(f"there is no {path}: no token was made")
    with _changing(path) as tokens:
        for index, token in enumerate(tokens):
            if token.name == name:
                if token.role not in GENERATORS:
                    raise InvalidInput(f"token {name} is of role {token.role}: only generators and embedders are bound")
                tokens[index] = replace(token, model_versions=tuple(dict.fromkeys(model_versions)))
                return tokens[index]
    raise NotFound(f"no token is named {name[:100]!r}: `gmvaluator token list` shows them")


def revoke_token(path: Path, name: str) -> None:
    """Remove a token from the file. Raises MissingData without a file, NotFound if no token has this name."""
    if not path.exists():
        raise MissingData(f"there is no {path}: no token was made")
    with _changing(path) as tokens:
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            raise NotFound(f"no token is named {name[:100]!r}: `gmvaluator token list` shows them")
        tokens[:] = kept


def _check(token: Token) -> None:
    if not _NAME.fullmatch(token.name):
        raise InvalidInput(f"name {token.name[:60]!r} is refused: use 1-100 characters of A-Z a-z 0-9 . _ : @ + -")
    if not _SHA256.fullmatch(token.sha256):
        raise InvalidInput(f"token {token.name} has no sha256 of 64 lower-case hex digits")
    if bool(token.generator) != (token.role in GENERATORS):
        raise InvalidInput(
            f"token {token.name}: a generator identity is for role generator or embedder, and needed there"
        )
    if token.generator and not _NAME.fullmatch(token.generator):
        raise InvalidInput(f"generator {token.generator[:60]!r} is refused: use 1-100 of A-Z a-z 0-9 . _ : @ + -")
    if bool(token.owner) != (token.role is Role.OWNER):
        raise InvalidInput(f"token {token.name}: an owner's UUID is for role owner, and needed there")
    if token.owner and not _is_plain_uuid(token.owner):
        raise InvalidInput(
            f"owner {token.owner[:60]!r} is refused: give the UUID as `gmvaluator rights show` prints it"
        )
    _check_model_versions(token)
    for moment in filter(None, (token.created_at, token.expires_at)):
        if datetime.fromisoformat(moment).utcoffset() is None:
            raise InvalidInput(f"token {token.name}: {moment} names no time zone; write it as UTC, with Z")


def _check_model_versions(token: Token) -> None:
    if token.model_versions and token.role not in GENERATORS:
        raise InvalidInput(f"token {token.name}: a model version is for role generator or embedder")
    if len(token.model_versions) > MAX_MODEL_VERSIONS or not all(map(_is_model_version, token.model_versions)):
        raise InvalidInput(
            f"token {token.name}: give {MAX_MODEL_VERSIONS} model versions at most, of 1-200 printable characters each"
        )


def _is_model_version(text: str) -> bool:
    return 1 <= len(text) <= _MAX_MODEL_VERSION_CHARACTERS and text.isprintable()


def _is_plain_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _parse(data: bytes) -> tuple[Token, ...]:
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it has over {MAX_FILE_BYTES:,} bytes")
    rows = json.loads(data)["tokens"]
    if len(rows) > MAX_TOKENS:
        raise ValueError(f"it has over {MAX_TOKENS:,} tokens")
    tokens = tuple(_token(row) for row in rows)
    # Two entries with one hash would be one token with two roles.
    for field in ("name", "sha256"):
        if len({getattr(token, field) for token in tokens}) != len(tokens):
            raise ValueError(f"a {field} stands in it twice")
    return tokens


def _token(row: Any) -> Token:
    if not isinstance(row, dict):
        raise TypeError("a token is an object")
    fields = dict(row)
    versions = fields.pop("model_versions", [])
    if not isinstance(versions, list) or not all(isinstance(value, str) for value in (*fields.values(), *versions)):
        raise ValueError("a token's fields are all text, and model_versions is a list of texts")
    return Token(**{**fields, "role": Role(fields["role"])}, model_versions=tuple(versions))


@contextmanager
def _changing(path: Path) -> Iterator[list[Token]]:
    """Yield the file's tokens for changes, and write them if the block ends without an exception.

    Only one process changes the file at a time.
    """
    private_folder(path.parent)
    # A file next to it, as the token file itself is replaced: a lock would stay on the old one.
    with FileLock(path.with_name(path.name + ".lock")):
        tokens = list(read_tokens(path)) if path.exists() else []
        yield tokens
        _write(path, tokens)


def _write(path: Path, tokens: Sequence[Token]) -> None:
    if len(tokens) > MAX_TOKENS:
        raise InvalidInput(f"{path} holds {MAX_TOKENS:,} tokens: revoke some first")
    rows = [{name: value for name, value in asdict(token).items() if value} for token in tokens]
    atomic_write(path, json.dumps({"tokens": rows}, indent=1) + "\n", mode=0o600)


def now_utc() -> str:
    """Return the current time as the file stores it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
