"""The limit of connections: who makes way, and what counts as one address."""

import resource

import pytest

from dashboard.web.connection_limit import ConnectionLimit, network_of, open_places


class Connection:
    """A connection that is answering, or idle."""

    def __init__(self, answering: bool = False) -> None:
        self.answering = answering
        self.closed = False

    def close_now(self) -> None:
        self.closed = True


def admitted(limit: ConnectionLimit, host: str, *connections: Connection) -> list[bool]:
    return [limit.admit(connection, host) for connection in connections]


def test_the_longest_idle_connection_of_the_address_makes_way() -> None:
    limit, old, busy, new = ConnectionLimit(2), Connection(), Connection(answering=True), Connection()
    assert admitted(limit, "192.0.2.1", old, busy, new) == [True, True, True]
    assert (old.closed, busy.closed, new.closed) == (True, False, False)


def test_one_that_was_answered_is_idle_from_then_on() -> None:
    limit, first, second, third = ConnectionLimit(2), Connection(), Connection(), Connection()
    admitted(limit, "192.0.2.1", first, second)
    limit.touch(first, "192.0.2.1")
    assert limit.admit(third, "192.0.2.1")
    assert (first.closed, second.closed) == (False, True)


def test_nobody_who_is_being_answered_makes_way() -> None:
    limit = ConnectionLimit(2)
    busy = [Connection(answering=True) for _ in range(2)]
    assert admitted(limit, "192.0.2.1", *busy, Connection()) == [True, True, False]
    assert limit.admit(Connection(), "192.0.2.2")
    limit.release(busy[0], "192.0.2.1")
    assert limit.admit(Connection(), "192.0.2.1")


def test_of_all_addresses_the_one_with_most_connections_makes_way() -> None:
    limit = ConnectionLimit(10, total=12)
    greedy, modest = [Connection() for _ in range(10)], [Connection() for _ in range(2)]
    admitted(limit, "192.0.2.1", *greedy)
    admitted(limit, "192.0.2.2", *modest)
    assert limit.admit(Connection(), "192.0.2.3")
    assert [connection.closed for connection in greedy] == [True] + [False] * 9
    assert not any(connection.closed for connection in modest)


def test_a_release_twice_counts_once() -> None:
    limit, connection = ConnectionLimit(1, total=2), Connection(answering=True)
    limit.admit(connection, "192.0.2.1")
    for _ in range(2):
        limit.release(connection, "192.0.2.1")
    assert admitted(limit, "192.0.2.1", Connection(answering=True), Connection()) == [True, False]
    assert admitted(limit, "192.0.2.2", Connection(answering=True)) == [True]
    assert admitted(limit, "192.0.2.3", Connection()) == [False]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
    ],
)
def test_an_address_is_counted_by_its_network(host: str, network: str) -> None:
    assert network_of(host) == network


@pytest.mark.parametrize(
    ("soft", "hard", "places", "raised"),
    [
        (4_096, 4_096, 1_000, None),
        (-1, -1, 1_000, None),
        (256, 4_096, 1_000, (1_128, 4_096)),
        (256, -1, 1_000, (1_128, -1)),
        (256, 512, 384, (512, 512)),
    ],
)
def test_there_are_as_many_places_as_the_process_may_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, places: int, raised: tuple[int, int] | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    assert open_places(1_000) == places
    assert limits == ([raised] if raised else [])
