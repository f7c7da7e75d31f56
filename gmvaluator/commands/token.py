"""`gmvaluator token new|list|bind|revoke`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click

from gmvaluator.auth.authenticator import TOKENS_FILE
from gmvaluator.auth.roles import GENERATORS, Role
from gmvaluator.auth.tokens import (
    Token,
    add_token,
    bind_token,
    new_token,
    now_utc,
    read_tokens,
    revoke_token,
    token_sha256,
)
from gmvaluator.commands.options import data_option, database_option, json_option
from gmvaluator.commands.owners import owner_argument
from gmvaluator.commands.parameters import FILE
from gmvaluator.errors import InvalidInput
from gmvaluator.storage.database import DataLocation

Command = TypeVar("Command", bound=Callable[..., Any])


def tokens_option(command: Command) -> Command:
    """Add `--data DIR` and `--tokens FILE`, passed on as `path` and, if the command takes it, `data`."""
    takes_data = "data" in signature(command).parameters

    @wraps(command)
    def with_path(*args: Any, data: Path, tokens: Path | None, **options: Any) -> Any:
        if takes_data:
            options["data"] = data
        return command(*args, path=tokens or data / TOKENS_FILE, **options)

    option = click.option(
        "--tokens",
        type=FILE,
        envvar="GMV_TOKENS",
        help=f"File of token hashes; default: DATA/{TOKENS_FILE}.",
    )
    return cast(Command, data_option(option(with_path)))


def model_version_option(command: Command) -> Command:
    """Add `--model-version NAME`, which may be repeated, passed on as `model_versions`."""
    return click.option(
        "--model-version",
        "model_versions",
        multiple=True,
        help="Generator whose images a generator's token may have valued; may be repeated; * for every one.",
    )(command)


@click.group()
def token() -> None:
    """Create, list and revoke the tokens of callers.

    Example: gmvaluator token list
    """


@token.command()
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]), help="What the token permits.")
@click.option("--name", help="Name in lists and logs; default: the role and a random number.")
@click.option(
    "--generator",
    default="",
    help="Generator identity in the ledger's keys; default for generators: the one that posted before, or the name.",
)
@model_version_option
@click.option(
    "--owner",
    default="",
    metavar="OWNER",
    help="Owner whose account it may read, for role owner: UUID, manifest's id or name.",
)
@click.option("--expires-in-days", type=click.IntRange(1, 3650), help="Days until it expires; default: never.")
@database_option
@tokens_option
@json_option
def new(
    role: str,
    name: str | None,
    generator: str,
    model_versions: tuple[str, ...],
    owner: str,
    expires_in_days: int | None,
    database_url: str,
    path: Path,
    data: Path,
    as_json: bool,
) -> None:
    """Create a token and print it once: the file holds only its hash. Running programs accept it at once.

    A generator's token may post for the generators that are registered now, unless --model-version names others. It
    takes over the identity that posted for them before, so that an image that is sent again is not paid again.

    Example: gmvaluator token new --role generator --name render-farm-1
    """
    secret, kind = new_token(), Role(role)
    name = name or f"{role}-{secrets.token_hex(4)}"
    known = read_tokens(path) if path.exists() else ()
    notes = [] if known else ["it is the first token: from now on calls without one are refused"]
    if kind in GENERATORS:
        from gmvaluator.commands.token_defaults import generator_binding

        bound = generator_binding(DataLocation(data, database_url), name, generator, model_versions, known)
        generator, model_versions = bound.identity, bound.model_versions
        notes.extend(bound.notes)
    if owner:
        owner = str(owner_argument(owner, DataLocation(data, database_url)))
    created = Token(
        name=name,
        role=kind,
        sha256=token_sha256(secret),
        created_at=now_utc(),
        generator=generator,
        owner=owner,
        expires_at="" if expires_in_days is None else _in_days(expires_in_days),
        model_versions=model_versions,
    )
    add_token(path, created)
    described = {**asdict(created), "token": secret, "file": str(path), "notes": notes}
    click.echo(json.dumps(described) if as_json else secret)
    # The note goes to stderr, so that a script can capture the token alone from stdout.
    if not as_json:
        click.echo(f"{_line(created)}; only its hash is stored, in {path}: save the token now", err=True)
        _echo_notes(notes)


def _echo_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


@token.command("list")
@tokens_option
@json_option
def list_(path: Path, as_json: bool) -> None:
    """List the names, roles and dates of the tokens; the tokens themselves are not stored.

    Example: gmvaluator token list --json
    """
    tokens = read_tokens(path)
    if as_json:
        click.echo(json.dumps({"tokens": [asdict(token) for token in tokens]}))
        return
    for token in tokens:
        click.echo(_line(token))


@token.command()
@click.argument("name")
@model_version_option
@database_option
@tokens_option
@json_option
def bind(name: str, model_versions: tuple[str, ...], database_url: str, path: Path, data: Path, as_json: bool) -> None:
    """Bind the generator's token NAME to the generators that --model-version names; running programs obey at once.

    Example: gmvaluator token bind render-farm-1 --model-version sdxl-2026-01
    """
    if not model_versions:
        raise InvalidInput("name the generators by --model-version, or every one by --model-version '*'")
    from gmvaluator.commands.token_defaults import notes_of_versions

    notes = notes_of_versions(DataLocation(data, database_url), model_versions)
    bound = bind_token(path, name, () if "*" in model_versions else model_versions)
    click.echo(json.dumps({**asdict(bound), "notes": notes}) if as_json else _line(bound))
    if not as_json:
        _echo_notes(notes)


@token.command()
@click.argument("name")
@tokens_option
@json_option
def revoke(name: str, path: Path, as_json: bool) -> None:
    """Revoke the token NAME; running programs refuse it at once.

    Example: gmvaluator token revoke render-farm-1
    """
    revoke_token(path, name)
    click.echo(json.dumps({"revoked": name}) if as_json else f"revoked {name}")


def _in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")


def _line(token: Token) -> str:
    versions = f" for {', '.join(token.model_versions) or 'every generator'}" if token.generator else ""
    bound = f" of {token.generator}{versions}" if token.generator else f" of owner:{token.owner}" if token.owner else ""
    until = f", until {token.expires_at}" if token.expires_at else ""
    return f"{token.name}: {token.role}{bound}, created {token.created_at}{until}"
