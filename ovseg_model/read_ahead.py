"""Slow readers run ahead of whoever needs their results, in order and with bounded memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yields read(item) of each item, in order, from a pool of threads.

    At most 2 × `threads` results wait for the consumer. What `read` raises is raised here, in its item's turn.
    """
    pool = ThreadPoolExecutor(threads, "read-ahead")
    ahead: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(ahead) == 2 * threads:
                yield ahead.popleft().result()
            ahead.append(pool.submit(read, item))
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_END = object()


def iterate_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items as they come, while one thread makes the next two. What making one raises is raised here."""
    coming = iter(items)
    for item in read_ahead(lambda _: next(coming, _END), itertools.repeat(None), 1):
        if item is _END:
            return
        yield item
