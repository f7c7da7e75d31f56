"""Settings of the attributor: built once in main, frozen, nothing read at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gmvaluator.auth import TOKENS_FILE
from gmvaluator.database.place import Place
from gmvaluator.images import MAX_IMAGE_BYTES

DEFAULT_ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class AttributorSettings:
    """How one attributor process runs.

    data: folder of catalogue, ledger and, unless `index` says otherwise, index.
    database_url: of the PostgreSQL that holds catalogue and ledger; empty for the SQLite files in `data`.
    index: URL of a Qdrant server; empty for the embedded engine in data/index.
    address: host:port to listen on; port 0 lets the kernel choose.
    max_batch: images in one forward pass at most; raising it costs memory and first-image latency.
    max_in_flight: calls that are worked on at once; more are refused with RESOURCE_EXHAUSTED.
    decoders: processes that decode images; more of them decode more at once, at 40 MB each.
    max_delay_ms: milliseconds a batch that is not full waits for images on their way; raising it makes batches larger.
    max_in_flight: images that are worked on at once; more are refused with RESOURCE_EXHAUSTED, or wait in their stream.
    max_pixels_in_flight: pixels of them all, 250,000 a call added; raising it costs about 3 bytes of memory each.
    model_threads: CPU threads of the models; 0 lets torch choose.
    tokens: file of token hashes that has to be there; None for DATA/tokens.json, if it is there.
    insecure: listen beyond loopback even without tokens or without TLS.
    drain_s: seconds that calls in flight get to end after SIGTERM.
    """

    data: Path
    index: str = ""
    profile: str = "lite"
    device: str = "cpu"
    address: str = DEFAULT_ADDRESS
    max_batch: int = 32
    max_delay_ms: float = 5.0
    max_in_flight: int = 128
    decoders: int = 2
    max_pixels_in_flight: int = 100_000_000
    model_threads: int = 0
    drain_s: float = 25.0
    reflection: bool = True
    tokens: Path | None = None
    insecure: bool = False
    database_url: str = field(default="", repr=False)

    @property
    def max_message_bytes(self) -> int:
        """Limit of the transport: well above the limit of an image, so that ours answers and says what to do."""
        return 3 * MAX_IMAGE_BYTES

    @property
    def place(self) -> Place:
        """Where catalogue and ledger are."""
        return Place(self.data, self.database_url)

    @property
    def tokens_file(self) -> Path:
        """Where the hashes of tokens are, or will be."""
        return self.tokens or self.data / TOKENS_FILE

    @property
    def policies(self) -> Path:
        """Folder of the operator's own policies."""
        return self.data / "policies"
