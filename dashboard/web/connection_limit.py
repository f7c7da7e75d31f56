"""A limit on connections, of all addresses together and of each, at which those without a request make way."""

from __future__ import annotations

import ipaddress
import resource
from collections import defaultdict
from typing import Protocol

MAX_CONNECTIONS = 2_000
"""Limit of the connections of all addresses together."""

IPV6_NETWORK_BITS = 64
"""Bits of an IPv6 address that count: the rest is the client's to choose."""

OTHER_FILES = 128
"""Open files that the process needs in addition to its connections: databases, pictures, libraries."""


def open_places(connections: int = MAX_CONNECTIONS) -> int:
    """Let the process open files for so many connections; return for how many of them it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= connections + OTHER_FILES:
        return connections
    files = connections + OTHER_FILES if hard == resource.RLIM_INFINITY else min(connections + OTHER_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return max(files - OTHER_FILES, 1)


class Limited(Protocol):
    """A connection that is counted."""

    @property
    def answering(self) -> bool:
        """True if a whole request has arrived that is not answered yet."""

    def close_now(self) -> None:
        """Close the connection at once."""


class ConnectionLimit:
    """The open connections by network, the longest idle first. Used by one event loop."""

    def __init__(self, per_network: int, total: int = MAX_CONNECTIONS) -> None:
        self._per_network = per_network
        self._total = total
        self._count = 0
        self._by_network: defaultdict[str, dict[Limited, None]] = defaultdict(dict)

    def admit(self, connection: Limited, host: str) -> bool:
        """Count a connection; return False, without counting it, if there is no place and none can be made."""
        network = network_of(host)
        if len(self._by_network[network]) >= self._per_network and not self._make_place(network):
            return False
        if self._count >= self._total and not self._make_place(max(self._by_network, key=self._size)):
            return False
        self._by_network[network][connection] = None
        self._count += 1
        return True

    def touch(self, connection: Limited, host: str) -> None:
        """Note that a connection is idle from now on, and no longer."""
        connections = self._by_network[network_of(host)]
        if connection in connections:
            del connections[connection]
            connections[connection] = None

    def release(self, connection: Limited, host: str) -> None:
        """Stop counting a connection; nothing happens if it is not counted."""
        network = network_of(host)
        if connection in self._by_network[network]:
            del self._by_network[network][connection]
            self._count -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def _size(self, network: str) -> int:
        return len(self._by_network[network])

    def _make_place(self, network: str) -> bool:
        """Close the network's connection that has waited longest for a request, or for the rest of one."""
        idle = next((connection for connection in self._by_network[network] if not connection.answering), None)
        if idle is None:
            return False
        del self._by_network[network][idle]
        self._count -= 1
        idle.close_now()
        return True


def network_of(host: str) -> str:
    """Return what the limit per address counts: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
    return str(address)
