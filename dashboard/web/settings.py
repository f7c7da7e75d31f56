"""Settings of the dashboard: built once in main, frozen, nothing read at import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmvaluator.auth.authenticator import TOKENS_FILE
from gmvaluator.storage.database import DataLocation

DEFAULT_ADDRESS = "127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """How one dashboard process runs.

    place: where ledger, catalogue and thumbnails are; they are only read.
    address: host:port to listen on; port 0 lets the kernel choose.
    server: the attributor's host:port, for previews and disputes; empty leaves these out.
    index_url: of a Qdrant server, for groups of near-copies; empty for the engine in the data folder.
    metrics_url: of the attributor's Prometheus metrics; empty leaves the operations page without them.
    tokens: file of token hashes; None for DATA/tokens.json, if it is there. Without one only loopback is let in.
    secure_cookies: browsers send the session over HTTPS only; set it behind a proxy that speaks TLS.
    update_s: seconds between two updates of a page at least; raised, pages are calmer and cost less.
    send_timeout_s: after this long a browser that does not read is cut.
    session_s: a session lasts this long, if its token does.
    """

    place: DataLocation
    address: str = DEFAULT_ADDRESS
    server: str = ""
    index_url: str = ""
    metrics_url: str = ""
    tokens: Path | None = None
    secure_cookies: bool = False
    insecure: bool = False
    update_s: float = 0.25
    send_timeout_s: float = 30.0
    session_s: int = 12 * 3600

    @property
    def tokens_file(self) -> Path:
        """The file of tokens that counts."""
        return self.tokens or self.place.folder / TOKENS_FILE
