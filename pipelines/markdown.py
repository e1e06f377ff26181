"""Tables of Markdown whose cells may hold the words of strangers: nouns, captions, licences, paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pipelines.terminal import escaped, shortened

CELL_CHARS = 120


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    """A table with its cells escaped, without a newline at its end; columns from `numbers_from` stand to the right."""
    left = len(header) if numbers_from is None else numbers_from
    marks = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [header, marks, *(list(map(cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str, most_chars: int = CELL_CHARS) -> str:
    """A text on one line, of bounded length before escaping, that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~!])", r"\\\1", shortened(escaped(text), most_chars))
