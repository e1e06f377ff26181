"""Progress with rate and ETA, on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from pipelines.terminal import open_bar
from pipelines.write_tables import RunFolder

Item = TypeVar("Item")


LOG_INTERVAL_S = 10.0
"""Between two lines of a log; a terminal gets a bar that moves."""

PAUSES_PER_LOOK = 20
"""How many times as long as a look at the parts the pause after it is, at least."""


def show_progress(
    items: Iterable[Item], label: str, unit: str, total: int | None = None, size: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """The items as they are, with a running count and rate; with a total, how long the rest will take.

    total: units of all items, where they do not know their number. size: units of an item, as images of a batch.
    """
    interval_s = 0.2 if sys.stderr.isatty() else LOG_INTERVAL_S
    total = len(items) if total is None and isinstance(items, Sized) else total
    bar = tqdm(None, label, total, unit=f" {unit}", mininterval=interval_s, maxinterval=interval_s)
    with open_bar(bar):
        for item in items:
            yield item
            bar.update(size(item))


_images_done: Counter[str] = Counter()


def count_images(images: Iterable[Item], table: str) -> Iterator[Item]:
    """The images as they are; each one taken counts towards what a bar shows of its table.

    A unit takes minutes. This is what moves meanwhile, for the steps that run in the launching process.
    """
    for image in images:
        _images_done[table] += 1
        yield image


class PartsProgress:
    """Units done, rate and ETA of every table that is made.

    It looks at which parts are there, so it works for every runner and any number of workers. Parts that were there
    at the start count at once; a stale one therefore counts before it is made again.
    """

    def __init__(self, run: RunFolder, units: int, labels: Mapping[str, str]) -> None:
        """`labels` maps table names to the stage that makes them."""
        self._run = run
        self._labels = labels
        self._counts = {table: self._count(table) for table in labels}
        self._show = _Bars(units, labels, self._counts) if sys.stderr.isatty() else _Log(units, labels, self._counts)
        self._interval_s = 1.0 if run.is_local else 15.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PartsProgress:
        """Starts to look."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Looks a last time and closes the bars."""
        self._done.set()
        self._thread.join()
        self._look()
        self._show.close()

    def _count(self, table: str) -> int:
        return len(self._run.names(table))

    def _watch(self) -> None:
        pause_s = self._interval_s
        while not self._done.wait(pause_s):
            started = time.monotonic()
            self._look()
            # Listing a million parts takes seconds, and on a store a thousand requests: looking stays a small share.
            pause_s = max(self._interval_s, PAUSES_PER_LOOK * (time.monotonic() - started))

    def _look(self) -> None:
        self._counts = {table: self._count(table) for table in self._labels}
        self._show.update(self._counts)


def images_done(table: str) -> str:
    """What this process has done of a table so far, in words; empty where it does not count images."""
    done = _images_done[table]
    return f"{done:,} images" if done else ""


class _Bars:
    """A bar a table, for a terminal."""

    def __init__(self, units: int, labels: Mapping[str, str], counts: Mapping[str, int]) -> None:
        self._bars = {
            table: tqdm(total=units, desc=label, unit=" unit", initial=counts[table], position=index)
            for index, (table, label) in enumerate(labels.items())
        }

    def update(self, counts: Mapping[str, int]) -> None:
        for table, bar in self._bars.items():
            bar.set_postfix_str(images_done(table), refresh=False)
            bar.update(counts[table] - bar.n)
            bar.refresh()

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


class _Log:
    """A line a table that moved, now and then, for a log."""

    def __init__(self, units: int, labels: Mapping[str, str], counts: Mapping[str, int]) -> None:
        self._units, self._labels = units, labels
        self._first = self._seen = dict(counts)
        self._written = {table: (count, images_done(table)) for table, count in counts.items()}
        self._started = self._last_line = time.monotonic()

    def update(self, counts: Mapping[str, int]) -> None:
        self._seen = dict(counts)
        if time.monotonic() - self._last_line >= LOG_INTERVAL_S:
            self.close()

    def close(self) -> None:
        elapsed_s = time.monotonic() - self._started
        lines = {table: self._line(table, count, elapsed_s) for table, count in self._seen.items()}
        for table, line in lines.items():
            if (self._seen[table], images_done(table)) != self._written.get(table):
                print(line, file=sys.stderr, flush=True)
        self._written = {table: (count, images_done(table)) for table, count in self._seen.items()}
        self._last_line = time.monotonic()

    def _line(self, table: str, count: int, elapsed_s: float) -> str:
        return tqdm.format_meter(
            count,
            self._units,
            elapsed_s,
            prefix=self._labels[table],
            unit=" unit",
            initial=self._first[table],
            postfix=images_done(table),
            ncols=100,
        )
