"""A server that is not there, is no attributor or speaks otherwise: one English line that says what to do."""

import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from gmvaluator.client.addresses import target_of
from gmvaluator.client.connection import Connection
from gmvaluator.client.sync import AttributorClient
from gmvaluator.client.unreachable import explanation
from gmvaluator.errors import GmvaluatorError, InvalidInput, PreconditionFailed, Unavailable


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("localhost", "such as localhost:50051"),
        ("192.0.2.7", "such as 192.0.2.7:50051"),
        ("dns:///attributor", "give the port too"),
        ("http://localhost:50051", "without http://"),
        ("https://attributor:443/", "without https://, with --tls for TLS"),
        ("grpc://localhost:50051", "without grpc://"),
        ("", "such as 127.0.0.1:50051"),
        ("localhost:", "give HOST:PORT"),
        (":50051", "give HOST:PORT"),
        ("localhost:0", "give HOST:PORT"),
        ("localhost:99999", "give HOST:PORT"),
        ("local host:50051", "give HOST:PORT"),
        ("::1:50051", "give HOST:PORT"),
        ("127.0.0.1:1,127.0.0.1:70000", "no IP:PORT"),
        ("127.0.0.1:1,", "no IP:PORT"),
    ],
)
def test_an_address_that_cannot_be_called_is_refused_with_the_right_form(address: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint):
        target_of(address)


@pytest.mark.parametrize("address", ["localhost:1", "[::1]:50051", "dns:///a:1", "dns://8.8.8.8/a:1", "unix:/run/a"])
def test_an_address_that_grpc_understands_is_kept(address: str) -> None:
    assert target_of(address) == address


def failure(connection: Connection) -> GmvaluatorError:
    with AttributorClient(connection, deadline_s=20) as client, pytest.raises(GmvaluatorError) as raised:
        client.get_attribution("x")
    return raised.value


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A server that answers every connection with `reply` and closes it; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.recv(1_000)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_port_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failure(Connection(f"127.0.0.1:{port}"))
    assert isinstance(error, Unavailable)
    assert str(error) == (
        f"no attributor answers at 127.0.0.1:{port}: start it with `gmvaluator serve`, or name another with --server"
    )


def test_a_web_server_such_as_the_dashboard() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as port:
        error = failure(Connection(f"127.0.0.1:{port}"))
    assert isinstance(error, Unavailable)
    assert "not in gRPC" in str(error)


def test_a_server_that_closes_the_connection_as_one_with_tls_does() -> None:
    with answering(b"") as port:
        assert "if it serves TLS, say --tls or --tls-ca" in str(failure(Connection(f"127.0.0.1:{port}")))


def test_tls_against_plain_text_and_a_grpc_server_that_is_no_attributor() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert "does not speak TLS" in str(failure(Connection(f"127.0.0.1:{port}", tls=True)))
        error = failure(Connection(f"127.0.0.1:{port}"))
    finally:
        server.stop(None).wait()
    assert isinstance(error, PreconditionFailed)
    assert "is no attributor" in str(error)


@pytest.mark.parametrize(
    ("code", "details", "hint"),
    [
        (
            "UNAVAILABLE",
            "errors resolving x:1: [field:address lookup failed for x:1: Domain name not found]",
            "no host",
        ),
        ("UNAVAILABLE", "DNS resolution failed for x:1: C-ares status is not ARES_SUCCESS", "no host"),
        ("UNAVAILABLE", "connections to all backends failing; last error: Connection refused", "no attributor answers"),
        ("UNAVAILABLE", "failed to connect to all addresses; CERTIFICATE_VERIFY_FAILED: self signed", "--tls-ca"),
        ("UNAVAILABLE", "failed to connect to all addresses; Hostname Verification Check failed.", "--tls-name"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "did not answer in time"),
        ("UNAVAILABLE", "the attributor is starting", None),
        ("DEADLINE_EXCEEDED", "the image waited 30 s", None),
        ("INVALID_ARGUMENT", "Socket closed", None),
    ],
)
def test_grpcs_own_texts_are_explained_and_the_servers_are_not(code: str, details: str, hint: str | None) -> None:
    explained = explanation(grpc.StatusCode[code], details, "x:1")
    assert (explained is None) if hint is None else (hint in str(explained))


def test_a_file_that_is_no_certificate_is_refused_before_the_call() -> None:
    with pytest.raises(PreconditionFailed, match="give PEM"):
        Connection("localhost:1", authority=Path(__file__)).channel()
