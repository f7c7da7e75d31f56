"""Secrets from the environment: in the variable NAME, or in the file that NAME_FILE names, as containers do.

Editors and shells write such files in several encodings: a byte order mark says in which, and is no part of the secret.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

from gmvaluator.errors import InvalidInput, PreconditionFailed

DATABASE_URL = "DATABASE_URL"
DATABASE_PASSWORD = "DATABASE_PASSWORD"  # noqa: S105 - the variable's name
QDRANT_API_KEY = "QDRANT_API_KEY"
SECRETS = (DATABASE_URL, DATABASE_PASSWORD, QDRANT_API_KEY)
"""Every variable that may hold a secret."""

MAX_SECRET_BYTES = 64 * 1024
"""Limit of a secret file, bytes."""


_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Encodings by their byte order marks; PowerShell writes UTF-16 when output is redirected."""

_TOKEN = re.compile(r"[!-~]{1,200}")


def file_text(data: bytes) -> str:
    """Return the text of a small file that a person or a program wrote. Raises UnicodeDecodeError."""
    return data.decode(next((encoding for mark, encoding in _ENCODINGS if data.startswith(mark)), "utf-8"))


def checked_token(text: str, where: str) -> str:
    """Return a token without surrounding white space. where: its place, for the message.

    Raises PreconditionFailed unless it is 1-200 visible ASCII characters, which is what a header can carry.
    """
    token = text.strip(" \t\r\n\ufeff")
    if not _TOKEN.fullmatch(token):
        raise PreconditionFailed(
            f"{where} holds no token: it is one line of letters, digits, - and _, as `gmvaluator token new` printed it"
        )
    return token


def secret(name: str) -> str:
    """Return secret `name` without surrounding white space; empty if it is not set.

    Raises InvalidInput if NAME and NAME_FILE are both set, PreconditionFailed if the file cannot be read or is empty.
    """
    value, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if value and file:
        raise InvalidInput(f"{name} and {name}_FILE are both set: leave one of them out")
    return _content(name, Path(file)) if file else value.strip()


def qdrant_api_key() -> str | None:
    """Return the API key of a Qdrant server, or None if it is not set. Raises what `secret` raises."""
    return secret(QDRANT_API_KEY) or None


def with_password(url: str) -> str:
    """Insert the password of DATABASE_PASSWORD or DATABASE_PASSWORD_FILE into a database URL, if one is set.

    Raises InvalidInput if the URL has a password already, has no user, or is empty; and what `secret` raises.
    """
    password = secret(DATABASE_PASSWORD)
    if not password:
        return url
    problem = f"{DATABASE_PASSWORD} is set, but"
    if not url:
        raise InvalidInput(f"{problem} no database is named: set DATABASE_URL to postgresql://USER@HOST/NAME")
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
    except ValueError:
        raise InvalidInput("the database's URL cannot be read: give postgresql://USER@HOST/NAME") from None
    if not at or not user:
        raise InvalidInput(f"{problem} the database's URL names no user: give postgresql://USER@HOST/NAME")
    if ":" in user:
        raise InvalidInput(f"{problem} the database's URL has a password too: leave one of them out")
    # An absent host, as for a Unix socket, has to stay absent for SQLAlchemy.
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def _content(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        text = file_text(data).strip()
    except OSError as error:
        raise PreconditionFailed(f"{name}_FILE: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise PreconditionFailed(f"{name}_FILE: {path} is no text: write the secret into it and nothing else") from None
    if not text or len(data) > MAX_SECRET_BYTES:
        raise PreconditionFailed(f"{name}_FILE: {path} is empty or over {MAX_SECRET_BYTES:,} bytes")
    return text


_OPERATOR_VARIABLES = ("QDRANT_URL", *SECRETS, *(f"{name}_FILE" for name in SECRETS))


def own_environment() -> dict[str, str]:
    """Return this process's environment without settings and secrets of the operator.

    Child processes started with it cannot reach an operator's index or ledger.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OPERATOR_VARIABLES and not name.startswith("GMV_")
    }
