"""A statement as one HTML page that prints: no script, no other file, every text escaped.

A statement as JSON and as CSV; the same statement is the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from gmvaluator.ledger.explain import printable
from gmvaluator.ledger.payouts.statement import Statement
from gmvaluator.valuation.weights import credits_text

_STYLE = """
:root { color-scheme: light; }
body { font: 11pt/1.45 system-ui, "Helvetica Neue", Arial, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 52rem; margin: 2rem auto; padding: 0 1.5rem; }
header { display: flex; justify-content: space-between; align-items: flex-start; gap: 2rem;
  border-bottom: 2px solid #1a1a1a; padding-bottom: 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
.small { font-size: .85rem; color: #555; overflow-wrap: anywhere; }
.payable { text-align: right; } .payable strong { display: block; font-size: 1.6rem; white-space: nowrap; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 1px solid #888; padding: .3rem .5rem .3rem 0; }
td { border-bottom: 1px solid #ddd; padding: .3rem .5rem .3rem 0; vertical-align: top; overflow-wrap: anywhere; }
th.n, td.n { text-align: right; padding-right: 0; padding-left: .75rem; white-space: nowrap; }
tr.sum td { font-weight: 600; border-bottom: 1px solid #1a1a1a; }
.draft { border: 1px solid #b26a00; color: #7a4900; padding: .4rem .8rem; margin: 1rem 0 0; }
footer { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: .75rem; }
@page { size: A4; margin: 18mm; }
@media print { body { margin: 0; max-width: none; padding: 0; font-size: 10pt; }
  tr { break-inside: avoid; } thead { display: table-header-group; } h2 { break-after: avoid; } }
"""

_CLOSING, _CARRIED = "Closing balance", "Carried over to the next period"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WHAT_CREDITS_ARE = (
    "A credit is similarity-based evidence that a work resembles a generated image, not proof that one caused the "
    "other. Every line can be explained and recomputed from the ledger's evidence."
)


def statement_page(statement: Statement) -> str:
    """The whole page, UTF-8 text."""
    found = statement.as_dict()
    title = f"Royalty statement {found['period']}"
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}</style>\n</head>\n<body>",
        _header(found, title),
        *(["<p class=draft>Draft: this period is not closed, and its figures may change.</p>"] * statement.draft),
        _summary(statement, found),
        _credits(found["credits"]),
        _movements("Adjustments", found["adjustments"]),
        _movements("Holds and disputes", found["holds"]),
        _movements("Payouts", found["payouts"]),
        f"<footer class=small><p>{escape(_WHAT_CREDITS_ARE)}</p>",
        f"<p>Statement {escape(found['statement'])}. Amounts in credits; times are UTC.</p></footer>",
        "</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _header(found: dict[str, Any], title: str) -> str:
    payable = found["payable"] or "not yet fixed"
    return (
        f"<header><div><h1>{escape(title)}</h1><div>{escape(found['display_name'])}</div>"
        f"<div class=small>{escape(found['account'])}</div></div>"
        f"<div class=payable>Payable<strong>{escape(payable)}</strong></div></header>"
    )


def _summary(statement: Statement, found: dict[str, Any]) -> str:
    sections = ("Credits", "Adjustments", "Holds", "Payouts")
    rows = [
        ("Opening balance", credits_text(found["opening_micros"])),
        *((name, credits_text(found[f"{name.lower()}_micros"])) for name in sections),
        (_CLOSING, credits_text(found["closing_micros"])),
        *_terms_lines(statement, found),
        (_CARRIED, credits_text(found["carry_over_micros"])),
    ]
    return _table("Summary", ["", "credits"], rows, numbers=1, sums=(_CLOSING, _CARRIED))


def _terms_lines(statement: Statement, found: dict[str, Any]) -> list[tuple[str, str]]:
    terms = statement.terms
    if terms is None:
        return []
    lines = [
        ("Threshold for a payout", credits_text(terms.threshold_micros)),
        ("Credits that are paid", credits_text(found["payable_micros"])),
        ("Rate for one credit", terms.rate_text()),
    ]
    if terms.pool_minor is not None:
        lines.append(("Pool that all owners share", terms.money_text(terms.pool_minor)))
    return [*lines, ("Payable", terms.money_text(found["payable_minor"]))]


def _credits(works: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            one["title"] or one["key"] or one["training_image_id"],
            f"{one['generations']:,}",
            credits_text(one["late_micros"]) if one["late_micros"] else "",
            credits_text(one["credit_micros"]),
        )
        for one in works
    ]
    return _table("Credits by work", ["work", "images", "of these late", "credits"], rows, numbers=3)


def _movements(title: str, found: Sequence[dict[str, Any]]) -> str:
    rows = [(one["decided_at"][:10], one["id"], _why(one), credits_text(one["amount_micros"])) for one in found]
    return _table(title, ["date", "id", "reason", "credits"], rows, numbers=1)


def _why(one: dict[str, Any]) -> str:
    concerned = [f"generation {one['about']}"] if one["about"] else []
    concerned += [f"dispute {one['dispute_id']}"] if one["dispute_id"] else []
    return f"{one['reason']} ({', '.join(concerned)})" if concerned else one["reason"]


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int, sums: Sequence[str] = ()
) -> str:
    """numbers: how many of the last columns are right-aligned. sums: first cells of rows that are set off.

    Nothing at all without rows.
    """
    if not rows:
        return ""
    classes = [""] * (len(columns) - numbers) + [" class=n"] * numbers
    heads = "".join(f"<th{css}>{escape(name)}</th>" for css, name in zip(classes, columns, strict=True))
    lines = []
    for row in rows:
        cells = "".join(f"<td{css}>{escape(cell)}</td>" for css, cell in zip(classes, row, strict=True))
        lines.append(f"<tr{' class=sum' if row[0] in sums else ''}>{cells}</tr>")
    body = "\n".join(lines)
    return f"<h2>{escape(title)}</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


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
