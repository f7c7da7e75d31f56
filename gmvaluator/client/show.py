"""How a stream's stages look on a terminal."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.text import Text

from gmvaluator.credits import credits_text
from gmvaluator.v1 import attribution_pb2 as attribution_v1

_NAMES = {
    attribution_v1.STAGE_RECALLED: "recalled",
    attribution_v1.STAGE_RERANKED: "re-ranked",
    attribution_v1.STAGE_FINAL: "final",
}


def attribution_dict(attribution: attribution_v1.Attribution) -> dict[str, Any]:
    """A stage as plain data, field names as in proto/; integers are numbers, hashes hex."""
    plain = MessageToDict(attribution, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _readable(value, name) for name, value in plain.items()}


def _readable(value: Any, name: str) -> Any:
    """Protobuf's JSON writes 64-bit integers as text and bytes as base64; people and jq want numbers and hex."""
    if isinstance(value, dict):
        return {key: _readable(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item, name) for item in value]
    if isinstance(value, str) and (name.endswith(("_micros", "_ppm")) or name == "sequence"):
        return int(value)
    return base64.b64decode(value).hex() if name == "head_hash" else value


class StagePrinter:
    """Prints each stage of one stream as it arrives: its time and the `top` nearest contributors."""

    def __init__(self, console: Console, top: int = 3) -> None:
        self._console = console
        self._top = top

    def heading(self, name: str, note: str = "") -> None:
        self._console.print(Text.assemble((name, "bold"), ("  " + note, "dim")), soft_wrap=True)

    def stage(self, attribution: attribution_v1.Attribution) -> None:
        """One stage."""
        for number, one in enumerate(attribution.contributors[: self._top]):
            self._console.print(self._line(attribution, one, number == 0), no_wrap=True, overflow="ellipsis")
        if not attribution.contributors:
            self._console.print(Text(f"  {self._label(attribution)}  no training image is near"))
        if attribution.stage == attribution_v1.STAGE_FINAL:
            self._console.print(self._summary(attribution), soft_wrap=True)

    def _label(self, attribution: attribution_v1.Attribution) -> str:
        return f"{_NAMES.get(attribution.stage, 'stage'):<9} {attribution.timings.total_ms:6.0f} ms"

    def _line(self, attribution: attribution_v1.Attribution, one: attribution_v1.Contributor, first: bool) -> Text:
        label = self._label(attribution) if first else " " * 19
        artist = " & ".join(payee.display_name or payee.account for payee in one.payees)
        if one.HasField("perceptual_distance"):
            nearness = f"distance {one.perceptual_distance:.4f}"
        else:
            nearness = f"similarity {one.clip_similarity:.3f}"
        amount = f"credit {credits_text(one.credit_micros)}" if one.HasField("credit_micros") else f"{one.share:7.2%}"
        whose = (f"{artist}: ", "green") if artist else ""
        return Text.assemble(f"  {label}  ", (f"{nearness}  {amount}  ", "cyan"), whose, one.key)

    def _summary(self, attribution: attribution_v1.Attribution) -> Text:
        rest = max(len(attribution.contributors) - self._top, 0)
        parts = [
            f"and {rest} more",
            f"quality {attribution.quality:.3f}",
            f"issued {credits_text(attribution.issued_micros)}",
        ]
        if attribution.replayed:
            parts.append("posted before")
        if attribution.HasField("sequence"):
            parts.append(f"head {attribution.sequence}:{attribution.head_hash.hex()[:8]}")
        else:
            parts.append("nothing posted")
        return Text(" " * 11 + ", ".join(parts), style="dim")
