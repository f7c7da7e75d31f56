"""Settings of the dashboard, built once from the command's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmvaluator.auth.authenticator import TOKENS_FILE
from gmvaluator.storage.database import DataLocation

DEFAULT_ADDRESS = "127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """The settings of one dashboard process.

    place: the location of ledger, catalogue and thumbnails, which are only read.
    address: host:port to listen on; port 0 lets the kernel choose.
    server: the attributor's host:port, for previews and disputes; empty disables these.
    index_url: of a Qdrant server, for groups of near-duplicates; empty for the engine in the data folder.
    metrics_url: of the attributor's Prometheus metrics; empty leaves the operations page without them.
    tokens: file of token hashes; None for DATA/tokens.json, if it exists. Without tokens only loopback is accepted.
    secure_cookies: whether browsers send the session over HTTPS only; set it behind a proxy that terminates TLS,
    which may then reach an address beyond loopback.
    insecure: whether to listen beyond loopback although there is no TLS, and perhaps no token.
    connections_per_address: connections of one address, an IPv4 address or an IPv6 network of 64 bits. At the limit
    one that waits for a request makes way; raise it behind a proxy, where every browser has the proxy's address.
    update_s: least seconds between two updates of a page; a higher value costs less.
    send_timeout_s: seconds after which the connection of a browser that does not read is closed.
    session_s: seconds that a session lasts, if its token is valid that long.
    """

    place: DataLocation
    address: str = DEFAULT_ADDRESS
    server: str = ""
    index_url: str = ""
    metrics_url: str = ""
    tokens: Path | None = None
    secure_cookies: bool = False
    insecure: bool = False
    connections_per_address: int = 200
    update_s: float = 0.25
    send_timeout_s: float = 30.0
    session_s: int = 12 * 3600

    @property
    def tokens_file(self) -> Path:
        """The file of tokens in use, which may not exist."""
        return self.tokens or self.place.folder / TOKENS_FILE
