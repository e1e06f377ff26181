"""JSONL: one JSON object a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from pipelines.caption_formats.columns import RecordReader, choose_columns
from pipelines.caption_formats.input_files import InputFile, lines_of
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import BadRow, CaptionRow, RowError, shown
from schemas.errors import UserError

HEAD_RECORDS = 100
"""Columns are chosen once a file, from the names in its first records: a single record may lack some."""

DECODER = json.JSONDecoder()

Record = dict[str, Any] | RowError


def read_jsonl(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The rows of a JSONL file, line by line; a bad row's key ends in its line's number, from 1.

    Raises:
        UserError: none of the first lines is a JSON object, or a column is missing in all of them.
    """
    records = ((number, parse_line(line)) for number, line in lines_of(file.uri) if not line.isspace())
    head = list(itertools.islice(records, HEAD_RECORDS))
    if not head:
        return
    columns = choose_columns(file.uri, _names(file.uri, [record for _, record in head]), options)
    reader = RecordReader(file, columns, options)
    for number, record in itertools.chain(head, records):
        if type(record) is dict:
            get = record.get
            yield from reader.rows(number, *[get(name) for name in columns])
        else:
            yield reader.bad(number, record)


def parse_line(line: bytes) -> Record:
    """One line's JSON object, or the problem with it."""
    try:
        record = _decode(line.decode())
    except UnicodeDecodeError as error:
        return RowError("not_utf8", f"wanted UTF-8, got byte {line[error.start]:#04x} at {error.start}")
    except (ValueError, RecursionError) as error:
        return RowError("not_json", f"wanted a JSON object, got {shown(line)} ({error})")
    if type(record) is dict:
        return record
    return RowError("not_json", f"wanted a JSON object, got {shown(record)}")


def _decode(text: str) -> Any:
    """As json.loads, in half the time for a line that begins with its object."""
    try:
        value, end = DECODER.raw_decode(text)
    except ValueError:
        return json.loads(text)
    return value if text[end:].isspace() or end == len(text) else json.loads(text)


def _names(uri: str, head: list[Record]) -> list[str]:
    objects = [record for record in head if type(record) is dict]
    if not objects:
        raise UserError(
            f"{uri}: wanted one JSON object a line, got none in the first {len(head)} lines; "
            "name another format by --captions-format"
        )
    return list(dict.fromkeys(name for record in objects for name in record))
