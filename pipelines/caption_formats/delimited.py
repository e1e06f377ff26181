"""CSV and TSV, with a header or with --columns."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from pipelines.caption_formats.columns import RecordReader, choose_columns
from pipelines.caption_formats.input_files import InputFile, lines_of
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import BadRow, CaptionRow, RowError, shown
from schemas.errors import UserError

MAX_FIELD_CHARS = 1 << 24
"""Python's own limit, 131,072, is below the longest alt texts of web corpora."""

MAX_LINES_OF_RECORD = 1_000
"""A quoted field may span lines; one that spans more is a quote that nobody closed."""

NumberedFields = tuple[int, list[str] | RowError]


def read_csv(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The rows of a CSV file as RFC 4180 has it: fields in double quotes may hold commas and line breaks."""
    return _read(file, options, csv_fields)


def read_tsv(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The rows of a TSV file: a line is a row, whatever quotes are in it."""
    return _read(file, options, tsv_fields)


def _read(
    file: InputFile,
    options: ReadOptions,
    split: Callable[[Iterable[tuple[int, str]]], Iterator[NumberedFields]],
) -> Iterator[CaptionRow | BadRow]:
    """A bad row's key ends in the number of its last line, from 1.

    Raises:
        UserError: a column is missing, or the header cannot be read.
    """
    rows = split((number, line.decode("utf-8", "surrogateescape")) for number, line in lines_of(file.uri))
    names = named_columns(options.columns) or _header(file.uri, next(rows, None))
    if not names:
        return
    hint = "" if options.columns else " in the first line; without a header there, say --columns"
    columns = choose_columns(file.uri, names, options, hint)
    places = [names.index(name) if name else None for name in columns]
    reader = RecordReader(file, columns, options)
    for number, fields in rows:
        if type(fields) is list and len(fields) == len(names):
            yield from reader.rows(number, *[None if place is None else fields[place] for place in places])
        elif type(fields) is list:
            detail = f"wanted {len(names)} fields ({', '.join(names)}), got {len(fields)}: {shown(fields)}"
            yield reader.bad(number, RowError("wrong_field_count", detail))
        else:
            yield reader.bad(number, fields)


def named_columns(columns: tuple[str, ...]) -> list[str]:
    """The names that --columns gives, with commas or without."""
    return [name.strip() for each in columns for name in each.split(",")]


def _header(uri: str, first: NumberedFields | None) -> list[str]:
    if first is None:
        return []
    if isinstance(first[1], RowError):
        raise UserError(f"{uri}: the header cannot be read ({first[1].detail})")
    return [name.strip() for name in first[1]]


def csv_fields(lines: Iterable[tuple[int, str]]) -> Iterator[NumberedFields]:
    """The fields of each row and the number of its last line.

    A row that cannot be parsed costs its first line: a stray quote opens a field that runs over the rows behind it,
    so they are read again on their own.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
    source = _RecordLines(lines)
    # Strict, since a stray quote would otherwise swallow the lines up to the next one without a word.
    rows = csv.reader(source, strict=True)
    while True:
        source.record.clear()
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            number = source.record[0][0]
            yield number, RowError("wrong_field_count", f"line {number}: {error}")
            source.read_again_after_first()
            rows = csv.reader(source, strict=True)
        else:
            if fields:
                yield source.record[-1][0], fields


class _RecordLines:
    """Lines that remember those of the current record, so that they can be read again."""

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self._lines = iter(lines)
        self._again: deque[tuple[int, str]] = deque()
        self.record: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.record) == MAX_LINES_OF_RECORD:
            raise csv.Error(f"a quote is not closed within {MAX_LINES_OF_RECORD} lines")
        line = self._again.popleft() if self._again else next(self._lines)
        self.record.append(line)
        return line[1]

    def read_again_after_first(self) -> None:
        self._again.extendleft(reversed(self.record[1:]))


def tsv_fields(lines: Iterable[tuple[int, str]]) -> Iterator[NumberedFields]:
    """The fields of each line; a field that a CSV writer put in double quotes is taken out of them."""
    for number, line in lines:
        text = line.rstrip("\r\n")
        if text:
            fields = text.split("\t")
            yield number, [unquoted(field) for field in fields] if '"' in text else fields


def unquoted(field: str) -> str:
    """The field without the double quotes that a CSV writer wraps it in; any other field as it is."""
    inner = field[1:-1]
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else field
