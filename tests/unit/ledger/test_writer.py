"""Rows on SQLite's own cursor: what is added is what stands there, by few different statements."""

from sqlalchemy import create_engine, select

from gmvaluator.ledger import writer as inserting
from gmvaluator.ledger.schema import balances


def test_sums_of_any_number_are_added_by_few_statements() -> None:
    engine = create_engine("sqlite://")
    balances.create(engine)
    inserting._valued.cache_clear()
    with engine.begin() as connection:
        writer = inserting.RowWriter(connection)
        for count in range(101):
            writer.add_to_balances([(f"owner/{number:03}", number + 1) for number in range(count)])
        found = dict(map(tuple, connection.execute(select(balances.c.account, balances.c.balance_micros))))
    engine.dispose()
    assert found == {f"owner/{number:03}": (number + 1) * (100 - number) for number in range(100)}
    assert inserting._valued.cache_info().currsize == 7
