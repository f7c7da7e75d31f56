"""Addresses of attributors as callers write them: HOST:PORT, or several for load balancing."""

from __future__ import annotations

import ipaddress
import re

from gmvaluator.auth.authenticator import is_loopback
from gmvaluator.auth.listening import MAX_PORT
from gmvaluator.errors import InvalidInput

DEFAULT_SERVER = "127.0.0.1:50051"

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]{2,60}\]")
_DNS = re.compile(r"^dns:(?://[^/]*/)?")
_HOST_AND_PORT = re.compile(rf"(?:{_HOST.pattern}):[0-9]{{1,5}}")


def is_balanced(address: str) -> bool:
    """Return True for `a:1,b:1` and `dns:///name:1`, which may name several attributors."""
    return "," in address or address.startswith("dns:")


def target_of(address: str) -> str:
    """Return the gRPC target of an address: HOST:PORT, dns:///HOST:PORT, or IP:PORT,IP:PORT. Raises InvalidInput."""
    if "," not in address:
        # gRPC would take an address without a port for one with port 443, and a URL for a name to look up.
        if not address.startswith("unix:"):
            _check_host_and_port(address, _DNS.sub("", address))
        return address
    versions = {_ip_version(part) for part in address.split(",")}
    if len(versions) > 1:
        raise InvalidInput(f"{address[:200]!r} mixes IPv4 and IPv6: give addresses of one kind")
    return f"ipv{versions.pop()}:{address}"


def all_loopback(address: str) -> bool:
    """Return True if every part of `address` can be reached from this machine alone."""
    return all(is_loopback(part) for part in address.split(","))


def _check_host_and_port(address: str, plain: str) -> None:
    """Raise InvalidInput, quoting `address`, unless `plain` is HOST:PORT."""
    if _HOST_AND_PORT.fullmatch(plain) and 1 <= int(plain.rpartition(":")[2]) <= MAX_PORT:
        return
    scheme, separator, _ = plain.partition("://")
    if separator:
        tls = ", with --tls for TLS" if scheme.endswith("s") else ""
        hint = f"give HOST:PORT without {scheme[:20]}://{tls}"
    elif _HOST.fullmatch(plain):
        hint = f"give the port too, such as {plain}:{DEFAULT_SERVER.rpartition(':')[2]}"
    else:
        hint = f"give HOST:PORT, such as {DEFAULT_SERVER}"
    raise InvalidInput(f"the server {address[:100]!r} is refused: {hint}")


def _ip_version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        version: int = ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        version = 0
    if not version or not _HOST_AND_PORT.fullmatch(address) or not 1 <= int(port) <= MAX_PORT:
        raise InvalidInput(
            f"{address[:100]!r} is no IP:PORT: give a list of these, or dns:///NAME:PORT for a name that stands for "
            "several"
        )
    return version
