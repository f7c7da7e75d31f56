"""Formats of a royalty statement: HTML page, JSON, CSV and plain text. The same statement gives the same bytes."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gmvaluator.ledger.payouts.statement import Statement
from gmvaluator.text import printable
from gmvaluator.valuation.weights import credits_text

_TEMPLATES = Path(__file__).with_name("templates")

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
"""Columns of the CSV format."""

_FORMULA = re.compile(r"""^(?=[\t\r])|(^|[;|\t\r\n])(?=[\s"']*[=+\-@\uff1d\uff0b\uff0d\uff20])""")
"""Where a spreadsheet takes text for a formula: at the start of a cell, and after what separates cells elsewhere.

In many languages a spreadsheet separates the cells of a CSV file by semicolons. Full-width signs begin formulas too.
"""


def statement_page(statement: Statement) -> str:
    """Return one HTML page that prints: without scripts or references to other files, and with all texts escaped."""
    template = _environment().get_template("statement.html")
    return template.render(statement=statement.as_dict(), terms=statement.terms)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"credits": credits_text, "explained": _explained}
    return environment


def _escape(value: object) -> Markup:
    """Escape a value that a template prints."""
    # Jinja2 alone would write quotes as &#34; and &#39;. Statements that were handed out have html.escape's spelling,
    # and a statement is the same bytes whenever it is exported.
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))  # noqa: S704 - it is escaped


def _explained(movement: dict[str, Any]) -> str:
    """Return a movement's reason with the generation and the dispute that it is about, or a payout's reference."""
    about = [f"reference {movement['reference']}"] if "reference" in movement else []
    about += [f"generation {movement['about']}"] if movement["about"] else []
    about += [f"dispute {movement['dispute_id']}"] if movement["dispute_id"] else []
    return f"{movement['reason']} ({', '.join(about)})" if about else movement["reason"]


def statement_json(statement: Statement) -> str:
    """Return indented JSON that ends with a line break."""
    return json.dumps(statement.as_dict(), indent=2, ensure_ascii=False) + "\n"


def statement_csv(statement: Statement) -> str:
    """Return one table: a line for each balance, credit, movement and payable amount.

    The amounts of sections opening, credit, adjustment, hold and payout add up to that of section closing. Lines end in
    CR LF (RFC 4180).
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for line in _lines(statement.as_dict()):
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return text.getvalue()


def statement_text(statement: Statement) -> str:
    """Return a few lines for a terminal."""
    plain = statement.as_dict()
    names = ("opening", "credits", "adjustments", "holds", "payouts", "closing", "carry_over")
    lines = [f"{plain['display_name']}, {plain['period']} ({plain['status']})"]
    lines += [f"{name.replace('_', ' '):>12} {credits_text(plain[f'{name}_micros']):>18}" for name in names]
    lines.append(f"{'payable':>12} {plain['payable'] or 'not fixed yet':>18}")
    return "".join(printable(line) + "\n" for line in lines)


def _lines(statement: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the CSV format, by column."""
    yield {"section": "opening", "id": statement["statement"], "amount_micros": statement["opening_micros"]}
    for work in statement["credits"]:
        yield {
            "section": "credit",
            "work": work["training_image_id"],
            **{name: work[name] for name in ("key", "title", "generations", "late_micros")},
            "amount_micros": work["credit_micros"],
        }
    for section in ("adjustments", "holds", "payouts"):
        for movement in statement[section]:
            names = ("id", "about", "dispute_id", "reason", "amount_micros", "amount_minor", "currency")
            yield {
                "section": section.removesuffix("s"),
                "time": movement["decided_at"],
                **{name: movement[name] for name in names if name in movement},
                **({"reason": _explained(movement)} if "reference" in movement else {}),
            }
    yield {"section": "closing", "amount_micros": statement["closing_micros"]}
    if statement["terms"] is not None:
        yield {"section": "threshold", "amount_micros": statement["threshold_micros"]}
        yield {
            "section": "payable",
            "amount_micros": statement["payable_micros"],
            "amount_minor": statement["payable_minor"],
            "currency": statement["terms"]["currency"],
        }
    yield {"section": "carry-over", "amount_micros": statement["carry_over_micros"]}


def _cell(value: Any) -> Any:
    # A quote in front makes a spreadsheet show the text: a title must not run in the payee's spreadsheet.
    if isinstance(value, str):
        return _FORMULA.sub(r"\g<0>'", value)
    return "" if value is None else value
