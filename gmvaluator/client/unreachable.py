"""Why a call did not reach an attributor, in words that say what to do.

gRPC describes failed connections in terms of its own source code. The texts below are those of C-core for the mistakes
that people make; a text that is not known here is passed on as it is.
"""

from __future__ import annotations

import grpc

_NOT_TLS = "does not speak TLS: leave --tls and --tls-ca out, or name the attributor's port"
_UNTRUSTED = "has a certificate that is not trusted here: name the authority that signed it by --tls-ca"
_OTHER_NAME = "has a certificate for another name: call it by the certificate's name, or give that name by --tls-name"
_HTTP = "answers, but not in gRPC (a dashboard, metrics or web server?): name the attributor's port by --server"
_CLOSED = (
    "closed the connection: if it serves TLS, say --tls or --tls-ca, and --tls-cert with --tls-key if it requires "
    "certificates of its clients"
)

_EXPLANATIONS = (
    ("WRONG_VERSION_NUMBER", _NOT_TLS),
    ("CERTIFICATE_VERIFY_FAILED", _UNTRUSTED),
    ("Hostname Verification Check failed", _OTHER_NAME),
    ("Failed parsing HTTP/2", _HTTP),
    ("http1.x", _HTTP),
    ("Socket closed", _CLOSED),
)
"""Parts of gRPC's texts about a connection that was made, and what they mean of the server."""

_NOT_CONNECTED = ("failed to connect to all addresses", "connections to all backends failing")
_UNKNOWN_HOST = ("errors resolving", "DNS resolution failed", "Domain name not found")


def explanation(code: grpc.StatusCode, details: str, address: str) -> str | None:
    """Return why the call to `address` failed, or None if the server itself answered with `details`."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return _of_connection(details, address)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == "Deadline Exceeded":
        return f"{address} did not answer in time: see whether the attributor is overloaded, or allow more time"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"{address} is no attributor, or an older one: name the attributor's HOST:PORT by --server "
            "(its --health port answers probes only)"
        )
    return None


def _of_connection(details: str, address: str) -> str | None:
    if any(part in details for part in _UNKNOWN_HOST):
        return f"no host has the name in {address}: name the attributor's HOST:PORT by --server"
    if not any(details.startswith(part) for part in _NOT_CONNECTED):
        return None
    for part, meaning in _EXPLANATIONS:
        if part in details:
            return f"{address} {meaning}"
    return f"no attributor answers at {address}: start it with `gmvaluator serve`, or name another with --server"
