"""Text that a terminal may show: captions, names and keys come from strangers."""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""The text on one line, with escapes for what would move the cursor, colour, or turn the reading direction.

    Everything but printable characters and spaces is escaped as Python's repr does: `\n`, `\x1b`, `\u202e`.
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shortened(text: str, most_chars: int) -> str:
    """The text, or its beginning with an ellipsis, in at most so many characters."""
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"
