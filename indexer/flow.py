"""Bounded flows between threads: order is kept, nothing runs further ahead than it is told, and closing stops it."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_POLL_S = 0.1


def ordered_map(
    pool: Executor, function: Callable[[In], Out], items: Iterable[In], window: int
) -> Generator[Out, None, None]:
    """`map` on a pool that keeps order and never has more than `window` items in hand."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class _Maker(threading.Thread, Generic[Out]):
    """Makes items in a thread of its own, at most `size` before they are asked for."""

    def __init__(self, items: Callable[[], Generator[Out, None, None]], size: int) -> None:
        super().__init__(name="ahead", daemon=True)
        self._items = items
        self._made: queue.Queue[_Made[Out]] = queue.Queue(size)
        self._closing = threading.Event()

    def run(self) -> None:
        source = self._items()
        try:
            for item in source:
                self._put(_Made(item=(item,)))
                if self._closing.is_set():
                    return
            self._put(_Made())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
            self._put(_Made(error=error))
        finally:
            source.close()

    def _put(self, made: _Made[Out]) -> None:
        while not self._closing.is_set():
            try:
                self._made.put(made, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def get(self) -> _Made[Out]:
        return self._made.get()

    def close(self) -> None:
        self._closing.set()
        self.join()


@dataclass(frozen=True, slots=True)
class _Made(Generic[Out]):
    """An item, or the end, or why there is none."""

    item: tuple[Out, ...] = ()
    error: BaseException | None = None


def ahead(items: Callable[[], Generator[Out, None, None]], size: int) -> Generator[Out, None, None]:
    """Items made in a thread of their own, at most `size` before they are asked for.

    An exception there is raised here. Closing this generator closes that one, after the item it is making.
    """
    maker = _Maker(items, size)
    maker.start()
    try:
        while True:
            made = maker.get()
            if made.error is not None:
                raise made.error
            if not made.item:
                return
            yield made.item[0]
    finally:
        maker.close()


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
