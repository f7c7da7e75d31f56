"""Several attributors behind one client: where they are, and how calls are spread over them.

Calls go round (gRPC's `round_robin`), to those alone whose health says SERVING: one that drains gets no new calls, and
one that died is tried again every few seconds.
"""

from __future__ import annotations

import ipaddress
import json

from gmvaluator.auth.authenticator import is_loopback
from gmvaluator.client.requests import SERVICE
from gmvaluator.errors import InvalidInput

RECONNECT_MS = 3_000
"""The longest pause between attempts to reach an attributor; gRPC's own default is two minutes."""

_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}})


def is_balanced(address: str) -> bool:
    """True for `a:1,b:1` and `dns:///name:1`, which may stand for several attributors."""
    return "," in address or address.startswith("dns:")


def target_of(address: str) -> str:
    """gRPC's name for an address: HOST:PORT, dns:///HOST:PORT, or IP:PORT,IP:PORT. Raises InvalidInput."""
    if "," not in address:
        return address
    versions = {_version(one) for one in address.split(",")}
    if len(versions) > 1:
        raise InvalidInput(f"{address[:200]!r} mixes IPv4 and IPv6: give addresses of one kind")
    return f"ipv{versions.pop()}:{address}"


def balancing_options(address: str) -> list[tuple[str, str | int]]:
    """Channel options for an address; none of balancing for a single one."""
    options: list[tuple[str, str | int]] = [("grpc.max_reconnect_backoff_ms", RECONNECT_MS)]
    if is_balanced(address):
        options.append(("grpc.service_config", _CONFIG))
    return options


def all_loopback(address: str) -> bool:
    """True if every part of `address` can be reached from this machine alone."""
    return all(is_loopback(one) for one in address.split(","))


def _version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        version: int = ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        version = 0
    if not version or not port.isdigit():
        raise InvalidInput(
            f"{address[:100]!r} is no IP:PORT: give a list of these, or dns:///NAME:PORT for a name that stands for "
            "several"
        )
    return version
