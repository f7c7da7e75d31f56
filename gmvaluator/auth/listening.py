"""Start-up checks that all servers share: the address to listen on, and who may connect to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gmvaluator.auth.authenticator import Authenticator, is_loopback
from gmvaluator.errors import InvalidInput, PreconditionFailed

MAX_PORT = 65_535
"""Highest TCP port."""

_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")


def check_address(address: str, option: str = "--address") -> None:
    """Raise InvalidInput, naming the option, unless `address` is HOST:PORT."""
    # Checked here, as gRPC listens on another port without an error if it cannot parse the address.
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[1]) > MAX_PORT:
        raise InvalidInput(f"{option} {address[:60]!r} is refused: give HOST:PORT, with PORT from 0 to {MAX_PORT}")


def load_authenticator(
    tokens_file: Path,
    address: str,
    *,
    required: bool,
    insecure: bool,
    on_problem: Callable[[str], None],
    role: str,
    right: str,
) -> Authenticator:
    """Return the authenticator for a server that listens on `address`.

    required: whether the file of tokens must exist. insecure: whether to listen beyond loopback without tokens. role,
    right: name in the message the token to create, and what everyone could do without one.

    Raises PreconditionFailed if other machines can reach the address and no token is required.
    """
    authenticator = Authenticator(tokens_file, required=required, on_problem=on_problem)
    if authenticator.anonymous_allowed and not insecure and not is_loopback(address):
        raise PreconditionFailed(
            f"{address} can be reached from other machines and there are no tokens: make one by "
            f"`gmvaluator token new --role {role}`, or say --insecure if everyone who can connect may {right}"
        )
    return authenticator
