"""Settings of the attributor.

The command's options, the environment variables and docs/reference/settings.md are generated from the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attributor.ops.thumbnails import CHOICES, NONE
from gmvaluator.auth.authenticator import TOKENS_FILE
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.storage.database import DataLocation

DEFAULT_ADDRESS = "127.0.0.1:50051"


def _setting(
    default: Any, help_text: str, limits: tuple[float, float] | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """Declare a field that is an option. help_text: its unit, and the effect of raising it. limits: both inclusive."""
    return field(default=default, metadata={"help": help_text, "limits": limits, "choices": choices})


@dataclass(frozen=True, slots=True)
class AttributorSettings:
    """Settings of one attributor process; built once in main and passed on.

    data: folder of the catalogue, the ledger and the embedded index.
    database_url: PostgreSQL with catalogue and ledger; empty for the SQLite files in `data`.
    index: URL of a Qdrant server; empty for the embedded engine in data/index.
    profile: models that embed and score.
    The other fields are documented by their help.
    """

    data: Path
    index: str = ""
    profile: str | ProfileChoice = "lite"
    database_url: str = field(default="", repr=False)

    address: str = _setting(DEFAULT_ADDRESS, "HOST:PORT to listen on; port 0: any that is free.")
    device: str = _setting("cpu", "Device of the models: auto, cpu, cuda, cuda:N or mps.")
    max_batch: int = _setting(
        32, "Images a forward pass; raised, it costs memory and the first image's time.", (1, 1_024)
    )
    max_delay_ms: float = _setting(
        5.0, "Milliseconds a batch that is not full waits for images on their way; raised: larger batches.", (0, 1_000)
    )
    max_in_flight: int = _setting(
        128, "Images at once; more are refused with RESOURCE_EXHAUSTED, or wait in their stream.", (1, 10_000)
    )
    max_pixels_in_flight: int = _setting(
        100_000_000,
        "Pixels of all images at once, 250,000 a call added; raised, it costs about 3 bytes of memory each.",
        (25_000_000, 10**12),
    )
    decoders: int = _setting(2, "Processes that decode images; each takes 40 MB, and decodes one at a time.", (1, 64))
    model_threads: int = _setting(0, "CPU threads of the models; 0: torch chooses.", (0, 256))
    max_connections: int = _setting(
        512, "Connections at once; more are closed at once. Raised, it costs a file descriptor each.", (8, 100_000)
    )
    drain_s: float = _setting(
        25.0, "Seconds that calls in flight get to end after SIGTERM; a second SIGTERM ends the wait.", (0, 600)
    )
    tokens: Path | None = _setting(
        None, f"File of token hashes, made by `gmvaluator token new`; default: DATA/{TOKENS_FILE}, if it is there."
    )
    tls_cert: Path | None = _setting(None, "Certificate of the server with its chain, PEM; read again when it changes.")
    tls_key: Path | None = _setting(None, "Key of the certificate, PEM.")
    client_ca: Path | None = _setting(
        None, "Authority, PEM, that has to have signed the certificate of every client (mTLS)."
    )
    insecure: bool = _setting(False, "Listen beyond loopback though without tokens or without TLS.")
    reflection: bool | None = _setting(None, "Server reflection; default: only without tokens and without TLS.")
    trust_clock: bool = _setting(
        False,
        "Post though the ledger's newest posting is dated after this machine's clock; for a clock that was ahead.",
    )
    max_disputes_per_month: int = _setting(
        20,
        "Disputes that one owner may open with its own token in a calendar month; raised, more credits wait.",
        (0, 10_000),
    )
    keep_images: str = _setting(
        NONE, "Storage of posted images: none, or a thumbnail for the dashboard.", choices=CHOICES
    )
    keep_images_days: float = _setting(
        30.0, "Days after which a stored thumbnail is deleted; raised, more is known of people's images.", (0.01, 3_650)
    )
    keep_images_mib: int = _setting(
        1_024, "MiB of all stored thumbnails, about 8 KiB each; the oldest are deleted first.", (1, 1_048_576)
    )
    metrics: str = _setting("", "HOST:PORT of Prometheus metrics over HTTP; default: none.")
    health: str = _setting(
        "", "HOST:PORT that answers grpc.health.v1 alone, without TLS, for probes that speak none; default: none."
    )

    @property
    def max_message_bytes(self) -> int:
        """gRPC's limit of a message: above our own of an image, whose error tells what to do."""
        return 3 * MAX_IMAGE_BYTES

    @property
    def place(self) -> DataLocation:
        """Location of catalogue and ledger."""
        return DataLocation(self.data, self.database_url)

    @property
    def tokens_file(self) -> Path:
        """Path of the file of token hashes, whether or not it exists."""
        return self.tokens or self.data / TOKENS_FILE

    @property
    def policies(self) -> Path:
        """Folder of the operator's own policies."""
        return self.data / "policies"
