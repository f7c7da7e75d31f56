"""Confirmation of commands whose postings cannot be taken back: `--dry-run`, `--yes`, and the question on a terminal.

The decision is made and undone first, and what it would post is shown. Without a terminal nothing is asked, so that
scripts run as they are.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import rich_click as click
from click.exceptions import Exit

from gmvaluator.storage.database import DataLocation

if TYPE_CHECKING:
    from gmvaluator.ledger.records import StoredPosting
    from gmvaluator.ledger.store import Ledger

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

_SHOWN_ACCOUNTS = 20
"""Accounts that are shown before the question, those that the most moves from or to first."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The confirmation that a command needs. dry_run: only show what would be posted. yes: post without a question."""

    dry_run: bool
    yes: bool

    @property
    def asks(self) -> bool:
        """True if somebody is asked before anything is posted."""
        return not self.dry_run and not self.yes and _on_terminal()

    def decide(
        self,
        book: Ledger,
        place: DataLocation,
        decision: Callable[[], Result],
        describe: Callable[[Result], Sequence[str]] = lambda _: (),
    ) -> Result:
        """Make a decision and return its result; on a terminal, show what it would post and ask first.

        decision: posts to `book` by `Ledger.decide`; it is called once more if somebody is asked. describe: lines about
        its result, shown before the question. With `--dry-run` the result is that of a decision that was undone. Exits
        with 1 if the answer is no.
        """
        if self.dry_run or self.asks:
            with book.rehearsal() as postings:
                rehearsed = decision()
            if self.dry_run:
                return rehearsed
            # Without postings there is nothing to ask about, such as when a command is repeated.
            if postings:
                _ask([*describe(rehearsed), *summary(postings, place)])
        return decision()


def confirmation_options(command: Command) -> Command:
    """Add `--dry-run` and `--yes`, passed on as one `confirmation`."""

    @wraps(command)
    def with_confirmation(*args: Any, dry_run: bool, yes: bool, **options: Any) -> Any:
        return command(*args, confirmation=Confirmation(dry_run, yes), **options)

    decorated: Callable[..., Any] = with_confirmation
    decorated = click.option("--yes", is_flag=True, help="Do not ask; without a terminal nothing is asked.")(decorated)
    decorated = click.option("--dry-run", is_flag=True, help="Only show what would be posted.")(decorated)
    return cast(Command, decorated)


def summary(postings: Sequence[StoredPosting], place: DataLocation) -> list[str]:
    """Return lines for people: the number of postings of each kind, and what they move, by account."""
    from gmvaluator.accounts import owner_of
    from gmvaluator.ledger.explain import owner_names
    from gmvaluator.text import printable
    from gmvaluator.valuation.weights import credits_text

    kinds = Counter(posting.header.kind for posting in postings)
    moved: Counter[str] = Counter()
    for posting in postings:
        for entry in posting.entries:
            moved[entry.account] += entry.amount_micros
    ordered = sorted(((account, amount) for account, amount in moved.items() if amount), key=lambda line: -abs(line[1]))
    shown = ordered[:_SHOWN_ACCOUNTS]
    names = owner_names(place, [owner for account, _ in shown if (owner := owner_of(account)) is not None])
    lines = ["this would post " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))]
    for account, amount in shown:
        owner = owner_of(account)
        name = account if owner is None else names[owner]
        lines.append(f"{credits_text(amount):>20}  {printable(name)}")
    if len(ordered) > len(shown):
        lines.append(f"{'...':>20}  and {len(ordered) - len(shown):,} more accounts")
    return lines


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _ask(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
    if not click.confirm("Postings cannot be taken back. Go on?", err=True):
        click.echo("nothing was posted", err=True)
        raise Exit(1)
