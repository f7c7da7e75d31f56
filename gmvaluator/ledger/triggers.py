"""Triggers of the ledger's database: those that refuse changes must be there, unchanged, and no others.

A trigger that is dropped lets rows be changed. A foreign one could change rows, or add some, whenever the ledger posts.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from gmvaluator.ledger.results import Problem
from gmvaluator.ledger.schema import IMMUTABLE
from gmvaluator.storage.schema import change_guards

_ON_SQLITE = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")

# Rules can replace a statement as triggers can. Constraints have internal triggers, which are not listed.
_ON_POSTGRESQL = text("""
SELECT tgname, pg_get_triggerdef(pg_trigger.oid) || CASE tgenabled WHEN 'O' THEN '' ELSE ' (disabled)' END
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE relnamespace = current_schema()::regnamespace AND NOT tgisinternal
UNION ALL SELECT proname, pg_get_functiondef(pg_proc.oid)
FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
UNION ALL SELECT rulename, definition FROM pg_rules WHERE schemaname = current_schema()
""")


def trigger_problems(connection: Connection, sequence: int) -> Iterator[Problem]:
    """Yield each trigger that is missing, changed or foreign. sequence: the newest posting, which findings name."""
    installed = _installed(connection)
    expected = _expected(connection.dialect.name)
    for name in sorted(installed.keys() | expected.keys()):
        if name not in installed:
            yield Problem(sequence, None, f"trigger {name} is missing: it was dropped")
        elif name not in expected:
            yield Problem(sequence, None, f"trigger {name} is not the ledger's: it was added")
        elif installed[name] != expected[name]:
            yield Problem(sequence, None, f"trigger {name} is not what the ledger made: it was changed or disabled")


def _installed(connection: Connection) -> dict[str, str]:
    rows = connection.execute(_ON_SQLITE if connection.dialect.name == "sqlite" else _ON_POSTGRESQL)
    return {name: _plain(definition) for name, definition in rows}


def _expected(dialect: str) -> dict[str, str]:
    statements = [statement for table in IMMUTABLE for statement in change_guards(table.name, dialect)]
    return {_name(statement): _plain(statement) for statement in statements}


def _name(statement: str) -> str:
    return statement.split()[2].partition("(")[0]


def _plain(definition: str) -> str:
    """Return a definition in one form, however the database prints it."""
    words = definition.replace("OR REPLACE", "").replace("$function$", "$$").replace("ledger.", "")
    return "".join(words.replace("UPDATE OR DELETE", "DELETE OR UPDATE").split())
