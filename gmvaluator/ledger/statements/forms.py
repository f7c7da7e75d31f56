"""A statement as JSON and as CSV; the same statement is the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from gmvaluator.credits import credits_text
from gmvaluator.ledger.statements.statement import Statement
from gmvaluator.ledger.summary import printable

_COLUMNS = (
    "section",
    "id",
    "time",
    "work",
    "key",
    "title",
    "generations",
    "amount_micros",
    "late_micros",
    "amount_minor",
    "currency",
    "about",
    "dispute_id",
    "reason",
)

_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")
"""A cell of text that begins so is a formula to a spreadsheet."""


def statement_json(statement: Statement) -> str:
    """Indented JSON with a line break at its end."""
    return json.dumps(statement.as_dict(), indent=2, ensure_ascii=False) + "\n"


def statement_csv(statement: Statement) -> str:
    """One table: a line for each balance, credit, movement and what is payable; amounts of lines that add up to
    `closing` have sections opening, credit, adjustment, hold and payout. Lines end in CR LF, as RFC 4180 says."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for line in _lines(statement.as_dict()):
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return text.getvalue()


def statement_text(statement: Statement) -> str:
    """A few lines for a terminal."""
    found = statement.as_dict()
    names = ("opening", "credits", "adjustments", "holds", "payouts", "closing", "carry_over")
    lines = [f"{found['display_name']}, {found['period']} ({found['status']})"]
    lines += [f"{name.replace('_', ' '):>12} {credits_text(found[f'{name}_micros']):>18}" for name in names]
    lines.append(f"{'payable':>12} {found['payable'] or 'not fixed yet':>18}")
    return "".join(printable(line) + "\n" for line in lines)


def _lines(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"section": "opening", "id": found["statement"], "amount_micros": found["opening_micros"]}
    for work in found["credits"]:
        yield {
            "section": "credit",
            "work": work["training_image_id"],
            **{name: work[name] for name in ("key", "title", "generations", "late_micros")},
            "amount_micros": work["credit_micros"],
        }
    for section in ("adjustments", "holds", "payouts"):
        for one in found[section]:
            names = ("id", "about", "dispute_id", "reason", "amount_micros", "amount_minor", "currency")
            yield {
                "section": section.removesuffix("s"),
                "time": one["decided_at"],
                **{name: one[name] for name in names if name in one},
            }
    yield {"section": "closing", "amount_micros": found["closing_micros"]}
    if found["terms"] is not None:
        yield {"section": "threshold", "amount_micros": found["threshold_micros"]}
        yield {
            "section": "payable",
            "amount_micros": found["payable_micros"],
            "amount_minor": found["payable_minor"],
            "currency": found["terms"]["currency"],
        }
    yield {"section": "carry-over", "amount_micros": found["carry_over_micros"]}


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_DANGEROUS):
        return "'" + value
    return "" if value is None else value
