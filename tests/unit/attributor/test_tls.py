"""TLS and mTLS over a real port: who can connect, and reloading of changed files."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attributor.rpc.health import HealthServicer
from attributor.rpc.tls import TlsFiles
from attributor.server import load_authenticator, tls_credentials
from attributor.settings import AttributorSettings
from gmvaluator.auth.roles import Role
from gmvaluator.auth.tokens import Token, add_token, now_utc, token_sha256
from gmvaluator.client.connection import Connection
from gmvaluator.errors import InvalidInput, PreconditionFailed
from gmvaluator.testing.certificates import Authority


def unheard(problem: str) -> None:
    raise AssertionError(problem)


@asynccontextmanager
async def serving(files: TlsFiles, on_problem: Callable[[str], None] = unheard) -> AsyncIterator[str]:
    """The address of a server that answers health."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    credentials = files.credentials(on_problem)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def answers(connection: Connection) -> bool:
    async with connection.aio_channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        return True


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_clients_that_know_the_authority_connect_and_others_do_not(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    async with serving(TlsFiles(*authority.issue("server"))) as address:
        assert await answers(Connection(address, authority=authority.path))
        assert await answers(Connection(address, authority=authority.path, server_name="localhost"))
        assert not await answers(Connection(address, authority=authority.path, server_name="elsewhere.example"))
        assert not await answers(Connection(address, authority=other.path))
        assert not await answers(Connection(address))


async def test_clients_without_a_certificate_are_refused_where_one_is_required(
    authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("client")
    strange, strange_key = Authority(tmp_path, "other").issue("stranger")
    async with serving(TlsFiles(*authority.issue("server"), authority.path)) as address:
        assert await answers(Connection(address, authority=authority.path, certificate=certificate, key=key))
        assert not await answers(Connection(address, authority=authority.path))
        assert not await answers(Connection(address, authority=authority.path, certificate=strange, key=strange_key))


async def test_a_new_certificate_is_loaded_and_a_damaged_one_is_not(authority: Authority, tmp_path: Path) -> None:
    problems: list[str] = []
    other = Authority(tmp_path, "other")
    certificate, key = authority.issue("server")
    async with serving(TlsFiles(certificate, key), problems.append) as address:
        assert await answers(Connection(address, authority=authority.path))
        certificate.write_text("damaged", encoding="ascii")
        assert await answers(Connection(address, authority=authority.path))
        assert len(problems) == 1
        fresh = other.issue("fresh")
        shutil.copyfile(fresh[0], certificate)
        shutil.copyfile(fresh[1], key)
        assert await answers(Connection(address, authority=other.path))
        assert not await answers(Connection(address, authority=authority.path))


def test_files_that_cannot_be_used_are_refused_at_the_start(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    _, another = authority.issue("another")
    for files in (
        TlsFiles(tmp_path / "absent", key),
        TlsFiles(key, key),
        TlsFiles(certificate, certificate),
        TlsFiles(certificate, another),
        TlsFiles(certificate, key, key),
    ):
        with pytest.raises(PreconditionFailed):
            files.read()


def test_half_of_the_tls_settings_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    assert tls_credentials(AttributorSettings(tmp_path)) is None
    assert tls_credentials(AttributorSettings(tmp_path, tls_cert=certificate, tls_key=key)) is not None
    for half in ({"tls_cert": certificate}, {"tls_key": key}, {"client_ca": authority.path}):
        with pytest.raises(InvalidInput, match="go together"):
            tls_credentials(AttributorSettings(tmp_path, **half))  # type: ignore[arg-type]


def test_tokens_do_not_go_beyond_loopback_in_the_clear(authority: Authority, tmp_path: Path) -> None:
    add_token(tmp_path / "tokens.json", Token("a", Role.AUDITOR, token_sha256("x"), now_utc()))
    certificate, key = authority.issue("server")
    with pytest.raises(PreconditionFailed, match="in the clear"):
        load_authenticator(AttributorSettings(tmp_path, address="0.0.0.0:0"))
    assert not load_authenticator(
        AttributorSettings(tmp_path, address="0.0.0.0:0", tls_cert=certificate, tls_key=key)
    ).anonymous_allowed
    tokens: list[dict[str, Any]] = [{"token": "secret"}, {"token_file": key}]
    for token in tokens:
        with pytest.raises(InvalidInput, match="in the clear") as refused:
            Connection("192.0.2.1:50051", **token).channel()
        assert "secret" not in str(refused.value)


def test_a_connection_is_read_from_the_environment(tmp_path: Path) -> None:
    environment = {"GMV_SERVER": "a:1", "GMV_TOKEN": "secret", "GMV_TLS_CA": "/ca.pem", "GMV_TLS_NAME": "b"}
    connection = Connection.from_environment(environment)
    assert connection == Connection("a:1", "secret", authority=Path("/ca.pem"), server_name="b")
    assert connection.secure
    assert "secret" not in repr(connection)
    assert Connection.from_environment(environment, "c:2").address == "c:2"
    assert Connection.from_environment({}) == Connection()


def test_a_token_file_is_read_for_every_call(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n", encoding="ascii")
    connection = Connection(token_file=path)
    assert connection.metadata() == (("authorization", "Bearer first"),)
    path.write_text("second", encoding="ascii")
    assert connection.metadata() == (("authorization", "Bearer second"),)
    path.unlink()
    with pytest.raises(PreconditionFailed):
        connection.metadata()
    assert Connection().metadata() == ()


def test_half_of_a_client_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="go together"):
        Connection("127.0.0.1:1", certificate=tmp_path).channel()
