"""What a terminal is shown: text of strangers, made harmless, and a last sentence below bars that are still open."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Bar(Protocol):
    """A line of a terminal that is written again and again, until it is closed."""

    def close(self) -> None:
        """Leaves the line as it is and begins the next one; once more does nothing."""


_open_bars: list[Bar] = []


@contextlib.contextmanager
def open_bar(bar: Bar) -> Iterator[None]:
    """While a bar is open: `print_error` closes it."""
    _open_bars.append(bar)
    try:
        yield
    finally:
        _open_bars.remove(bar)
        bar.close()


def print_error(sentence: str) -> None:
    """Prints a sentence on a line of its own, on standard error; bars that are open are closed.

    Whoever fails between two items of a bar leaves it open: the error holds the generator that would close it.
    """
    for bar in _open_bars:
        bar.close()
    print(escaped(sentence), file=sys.stderr)


def escaped(text: str) -> str:
    r"""The text on one line, with escapes for what would move the cursor, colour, or turn the reading direction.

    Everything but printable characters and spaces is escaped as Python's repr does: `\n`, `\x1b`, `\u202e`.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shortened(text: str, most_chars: int) -> str:
    """The text, or its beginning with an ellipsis, in at most so many characters."""
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"
