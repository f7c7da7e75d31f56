"""Writing rows on SQLite: balances are exact sums, written with few different statements."""

from sqlalchemy import create_engine, select

from gmvaluator.ledger.schema import balances
from gmvaluator.ledger.writer import RowWriter, values_statement


def test_balances_of_any_number_of_accounts_are_added_by_few_statements() -> None:
    engine = create_engine("sqlite://")
    balances.create(engine)
    values_statement.cache_clear()
    with engine.begin() as connection:
        writer = RowWriter(connection)
        for count in range(101):
            writer.add_to_balances([(f"owner/{number:03}", number + 1) for number in range(count)])
        stored = dict(map(tuple, connection.execute(select(balances.c.account, balances.c.balance_micros))))
    engine.dispose()
    assert stored == {f"owner/{number:03}": (number + 1) * (100 - number) for number in range(100)}
    assert values_statement.cache_info().currsize == 7
