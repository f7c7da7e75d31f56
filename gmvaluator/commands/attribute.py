"""`gmvaluator attribute` and `gmvaluator health`: calls to a running attributor from a terminal."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import Exit
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.text import Text

from gmvaluator.client.addresses import DEFAULT_SERVER
from gmvaluator.client.connection import Connection
from gmvaluator.client.requests import DEADLINE_S, Retries, translated
from gmvaluator.client.sync import AttributorClient
from gmvaluator.commands.failures import print_failure
from gmvaluator.commands.options import connection_options
from gmvaluator.commands.overlays import Overlays, by_credit, drawn_contributors
from gmvaluator.commands.parameters import ANY_PATH, FILE, FiniteRange
from gmvaluator.errors import Conflict, GmvaluatorError, InvalidInput, MissingData
from gmvaluator.ids import sha256_hex
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.valuation.weights import credits_text

RETRIES = Retries(overload_attempts=1_000_000)
"""An image is sent again while the attributor is overloaded, and five times while it cannot be reached."""

_BYTES = ("head_hash", "image_cells", "work_cells")
"""Fields that are printed as hex."""

_INDENT = 25
"""Columns before what is said of a contributor: the stage, its time, and the contributor's number."""

_STAGE_NAMES = {
    attribution_v1.STAGE_RECALLED: "recalled",
    attribution_v1.STAGE_RERANKED: "re-ranked",
    attribution_v1.STAGE_FINAL: "final",
}


def attribution_dict(attribution: attribution_v1.Attribution) -> dict[str, Any]:
    """Return a stage as plain data: field names as in proto/, integers as numbers, hashes as hex."""
    plain = MessageToDict(attribution, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _readable(value, name) for name, value in plain.items()}


def _readable(value: Any, name: str) -> Any:
    # Protobuf's JSON has 64-bit integers as text and bytes as base64; people and jq need numbers and hex.
    if isinstance(value, dict):
        return {key: _readable(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item, name) for item in value]
    if isinstance(value, str) and (name.endswith(("_micros", "_ppm")) or name == "sequence"):
        return int(value)
    return base64.b64decode(value).hex() if name in _BYTES else value


class StagePrinter:
    """Printer of the stages of a stream as they arrive, each with its time and its `top` best paid contributors.

    drawn: whether FINAL also lists every contributor whose region is drawn (see `Overlays`).
    """

    def __init__(self, console: Console, top: int = 3, *, drawn: bool = False) -> None:
        self._console = console
        self._top = top
        self._drawn = drawn

    def heading(self, name: str, note: str = "") -> None:
        self._console.print(Text.assemble((name, "bold"), ("  " + note, "dim")), soft_wrap=True)

    def stage(self, attribution: attribution_v1.Attribution) -> None:
        """Print one stage, with the contributors that have most of the credit first."""
        for number, contributor in self._listed(attribution).items():
            line = self._line(attribution, number, contributor)
            self._console.print(line, no_wrap=True, overflow="ellipsis")
            if contributor.HasField("visible"):
                self._console.print(_visible_line(contributor.visible), soft_wrap=True)
        if not attribution.contributors:
            self._console.print(Text(f"  {self._label(attribution)}  no training image is near"))
        if attribution.stage == attribution_v1.STAGE_FINAL:
            self._console.print(self._summary(attribution), soft_wrap=True)

    def _listed(self, attribution: attribution_v1.Attribution) -> dict[int, attribution_v1.Contributor]:
        """Return the contributors to print, by their number, which counts from 1 in the order `by_credit`."""
        listed = dict(enumerate(by_credit(attribution)[: self._top], start=1))
        if self._drawn and attribution.stage == attribution_v1.STAGE_FINAL:
            listed |= dict(drawn_contributors(attribution))
        return listed

    def _label(self, attribution: attribution_v1.Attribution) -> str:
        return f"{_STAGE_NAMES.get(attribution.stage, 'stage'):<9} {attribution.timings.total_ms:6.0f} ms"

    def _line(
        self, attribution: attribution_v1.Attribution, number: int, contributor: attribution_v1.Contributor
    ) -> Text:
        label = self._label(attribution) if number == 1 else " " * 19
        artist = " & ".join(payee.display_name or payee.account for payee in contributor.payees)
        # Distances and credits are known only from the stages after re-ranking and posting.
        if contributor.HasField("perceptual_distance"):
            nearness = f"distance {contributor.perceptual_distance:.4f}"
        else:
            nearness = f"similarity {contributor.clip_similarity:.3f}"
        if contributor.HasField("credit_micros"):
            amount = f"credit {credits_text(contributor.credit_micros)}"
        else:
            amount = f"{contributor.share:7.2%}"
        owner = (f"{artist}: ", "green") if artist else ""
        return Text.assemble(f"  {label} {number:>2} ", (f"{nearness}  {amount}  ", "cyan"), owner, contributor.key)

    def _summary(self, attribution: attribution_v1.Attribution) -> Text:
        rest = len(attribution.contributors) - len(self._listed(attribution))
        parts = [f"and {rest} more"] if rest > 0 else []
        parts += [
            f"quality {attribution.quality:.3f}",
            f"issued {credits_text(attribution.issued_micros)}",
            f"unattributed {credits_text(attribution.unattributed_micros)} ({attribution.unattributed_share:.1%})",
        ]
        if attribution.replayed:
            parts.append("posted before")
        if attribution.HasField("sequence"):
            parts.append(f"head {attribution.sequence}:{attribution.head_hash.hex()[:16]}")
        else:
            parts.append("nothing posted")
        return Text(" " * 11 + ", ".join(parts), style="dim")


def _visible_line(visible: attribution_v1.VisibleParts) -> Text:
    # Imported here, as it brings numpy, which no other line needs.
    from gmvaluator.valuation.parts import visible_text

    return Text(" " * _INDENT + visible_text(visible.image_share, visible.inliers), "cyan")


@dataclass(frozen=True, slots=True)
class _Sender:
    """A sender of images that prints each answer, as JSON if it has no printer."""

    client: AttributorClient
    model_version: str
    generation_id: str | None
    preview: bool
    printer: StagePrinter | None
    overlays: Overlays | None

    def send(self, number: int, path: Path) -> None:
        """Send the image at position `number` of the command's."""
        data = read_image(path)
        generation = self.generation_id or f"sha256:{sha256_hex(data)}"
        if self.preview:
            stages = self.client.preview(data, self.model_version)
        else:
            stages = self.client.attribute(data, generation, self.model_version)
        if self.printer is None:
            last = _print_json(path, stages)
        else:
            last = _print_stages(self.printer, path, "" if self.preview else generation, stages)
        if self.overlays is not None and last is not None:
            click.echo(self.overlays.save(number, data, last), err=self.printer is None)


@click.command()
@click.argument("images", nargs=-1, required=True, type=ANY_PATH)
@connection_options
@click.option("--model-version", required=True, envvar="GMV_MODEL_VERSION", help="Generator that made the images.")
@click.option("--generation-id", help="Id of the generation, for one image only; default: sha256: and the file's hash.")
@click.option("--preview", is_flag=True, help="Value the images without posting credits.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1, 1000), help="Contributors to show.")
@click.option(
    "--deadline",
    "deadline_s",
    default=DEADLINE_S,
    show_default=True,
    type=FiniteRange(0.1, 3600),
    help="Seconds for one image. While the attributor is overloaded the image is sent again until then.",
)
@click.option(
    "--save-overlay",
    "overlay",
    type=FILE,
    help="PNG to draw the image on, with the regions of the works that are visible in it; of several images the name "
    "of each is added: out-NAME.png.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a stage on stdout.")
def attribute(
    images: tuple[Path, ...],
    connection: Connection,
    model_version: str,
    generation_id: str | None,
    preview: bool,
    top: int,
    deadline_s: float,
    overlay: Path | None,
    as_json: bool,
) -> None:
    """Send IMAGES to a running attributor and print each stage as it arrives.

    Sending the same image again posts nothing, because its default id is its hash. An image that is refused is named on
    stderr, and the others are sent all the same; the exit code is then 1, or 2 if it was the only one.

    Example: gmvaluator attribute --model-version demo-1 examples/generated/*.webp
    """
    if generation_id is not None and len(images) > 1:
        raise click.UsageError("--generation-id names one generation: give one image with it")
    overlays = None if overlay is None else Overlays(overlay, images)
    printer = None if as_json else StagePrinter(Console(), top, drawn=overlays is not None)
    refused = 0
    with AttributorClient(connection, deadline_s, RETRIES) as client:
        sender = _Sender(client, model_version, generation_id, preview, printer, overlays)
        for number, path in enumerate(images):
            try:
                sender.send(number, path)
            except (InvalidInput, Conflict, MissingImage) as error:
                if len(images) == 1:
                    raise
                refused += 1
                print_failure(f"{path}: {error}")
            except GmvaluatorError:
                # The next images would meet the same error.
                if number + 1 < len(images):
                    print_failure(f"{path} and {len(images) - number - 1:,} images after it were not answered")
                raise
    if refused:
        print_failure(f"{refused:,} of {len(images):,} images were refused")
        raise Exit(1)


class MissingImage(MissingData):
    """A file that was named as an image cannot be read."""


def read_image(path: Path) -> bytes:
    """Return the bytes of a file, cut at one byte over the size limit. Raises MissingImage if it cannot be read."""
    try:
        with path.open("rb") as file:
            # One byte over the limit is enough for the attributor to refuse the image with its own message.
            return file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise MissingImage(f"{path} cannot be read: {error.strerror}") from error


def _print_json(path: Path, stages: Iterator[attribution_v1.Attribution]) -> attribution_v1.Attribution | None:
    """Print the stages as lines of JSON; return the last."""
    stage = None
    for stage in stages:
        click.echo(json.dumps({"file": str(path), **attribution_dict(stage)}))
    return stage


def _print_stages(
    printer: StagePrinter, path: Path, generation: str, stages: Iterator[attribution_v1.Attribution]
) -> attribution_v1.Attribution | None:
    """Print the stages under the name of the image and the id of its generation, and return the last; nothing if the
    image is refused."""
    stage = None
    for number, stage in enumerate(stages):
        if number == 0:
            printer.heading(path.name, generation)
        printer.stage(stage)
    return stage


SERVING = "SERVING"

_RETRY_S = 0.2
"""Seconds between two queries of `health --wait`."""


@click.command()
@click.option("--server", default=DEFAULT_SERVER, show_default=True, help="The attributor's HOST:PORT.")
@click.option("--tls-ca", type=FILE, help="Use TLS, with this certificate authority (PEM).")
@click.option("--service", default="", help="Service to query; default: the whole server.")
@click.option("--timeout", default=3.0, show_default=True, type=FiniteRange(0.1, 60), help="Seconds for a query.")
@click.option("--wait", "wait_s", default=0.0, type=FiniteRange(0, 3600), help="Seconds to retry until it is SERVING.")
def health(server: str, tls_ca: Path | None, service: str, timeout: float, wait_s: float) -> None:
    """Query an attributor's health by grpc.health.v1 and print the status; exit with 1 unless it is SERVING.

    The command reads no environment variables and needs no token.

    Example: gmvaluator health --server 127.0.0.1:50052
    """
    ends_at = time.monotonic() + wait_s
    with Connection(server, authority=tls_ca).channel() as channel:
        while True:
            status, problem = _query_health(channel, server, service, timeout)
            if status == SERVING or time.monotonic() >= ends_at:
                break
            time.sleep(_RETRY_S)
    if problem is None:
        click.echo(status)
    else:
        print_failure(f"{status}: {problem}")
    if status != SERVING:
        raise Exit(1)


def _query_health(channel: Any, server: str, service: str, timeout_s: float) -> tuple[str, GmvaluatorError | None]:
    """Return a status of the protocol, or the status of a failed call and its error."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(channel)
    try:
        with translated(server):
            response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)  # type: ignore[attr-defined]
    except GmvaluatorError as error:
        cause = error.__cause__
        return cause.code().name if isinstance(cause, grpc.RpcError) else type(error).__name__, error
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)), None
