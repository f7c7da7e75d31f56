"""Bounded flows between threads: order is kept, nothing runs further ahead than it is told, and closing stops it."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

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


def ahead(items: Callable[[], Generator[Out, None, None]], size: int) -> Generator[Out, None, None]:
    """Items made in a thread of their own, at most `size` before they are asked for.

    An exception there is raised here. Closing this generator closes that one, after the item it is making.
    """
    made: queue.Queue[tuple[str, Out | BaseException | None]] = queue.Queue(size)
    closing = threading.Event()

    def put(kind: str, value: Out | BaseException | None) -> None:
        while not closing.is_set():
            try:
                made.put((kind, value), timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def work() -> None:
        source = items()
        try:
            for item in source:
                put("item", item)
                if closing.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
            put("error", error)
        finally:
            source.close()

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]  # of kind "item"
    finally:
        closing.set()
        thread.join()


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
