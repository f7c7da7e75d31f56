"""Tables whose rows stay as they were written: the database itself refuses to change or remove them."""

from __future__ import annotations

from sqlalchemy import Table, event
from sqlalchemy.schema import DDL, ExecutableDDLElement


def forbid_changes(table: Table) -> None:
    """Have triggers made with `table` that refuse UPDATE and DELETE, and TRUNCATE where there is one."""
    refusal = f"{table.name} are append-only: post a correction instead"
    sqlite = [
        f"CREATE TRIGGER {table.name}_no_{operation.lower()} BEFORE {operation} ON {table.name} "
        f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        for operation in ("UPDATE", "DELETE")
    ]
    postgresql = [
        f"CREATE FUNCTION refuse_change_of_{table.name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{refusal}'; END $$",
        f"CREATE TRIGGER {table.name}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_{table.name}()",
    ]
    for dialect, statements in (("sqlite", sqlite), ("postgresql", postgresql)):
        for statement in statements:
            made: ExecutableDDLElement = DDL(statement)  # type: ignore[no-untyped-call]
            event.listen(table, "after_create", made.execute_if(dialect=dialect))
