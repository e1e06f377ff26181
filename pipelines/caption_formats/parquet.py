"""Parquet, by record batch and with only the columns that are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.caption_formats.columns import CANDIDATES, Columns, RecordReader, choose_columns
from pipelines.caption_formats.input_files import InputFile, open_input
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import BadRow, CaptionRow
from schemas.errors import UserError

ROWS_PER_BATCH = 8192


def read_parquet(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The rows of a Parquet file; a bad row's key ends in its row's number, from 0.

    Raises:
        UserError: it is no Parquet file, a column is missing, or has a type that is neither text nor whole number.
    """
    try:
        with open_input(file.uri) as opened:
            yield from _read(file, pq.ParquetFile(opened), options)
    except pa.ArrowException as error:
        raise UserError(f"--captions {file.uri}: cannot be read as Parquet ({error})") from error


def _read(file: InputFile, table: pq.ParquetFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    columns = choose_parquet_columns(file.uri, table.schema_arrow, options)
    reader = RecordReader(file, columns, options)
    positions = itertools.count()
    wanted = list(dict.fromkeys(name for name in columns if name))
    for batch in table.iter_batches(ROWS_PER_BATCH, columns=wanted):
        values = [texts(batch[name]) if name else itertools.repeat(None) for name in columns]
        # The count stands last: zip takes from each in turn, and stops at the first that is at its end.
        for *record, position in zip(*values, positions, strict=False):
            yield from reader.rows(position, *record)


def choose_parquet_columns(uri: str, schema: pa.Schema, options: ReadOptions) -> Columns:
    """The columns to read, among those of text, lists of text, or whole numbers; raises UserError."""
    unread = [f"{field.name} ({field.type})" for field in schema if not (_is_text(field.type) or _is_list(field.type))]
    named = [value for name, value in vars(options).items() if name.endswith("_column")]
    readable = [
        field.name
        for field in schema
        if _is_text(field.type) or _is_list(field.type) or _is_flag(field) or field.name in named
    ]
    note = f"; of a type that cannot be read: {', '.join(unread)}" if unread else ""
    columns = choose_columns(uri, readable, options, note)
    for role, name in columns._asdict().items():
        _check_type(uri, role, schema.field(name) if name else None)
    return columns


def _check_type(uri: str, role: str, field: pa.Field | None) -> None:
    if field is None or _is_text(field.type) or (role == "caption" and _is_list(field.type)):
        return
    if role == "safety" and _is_flag_type(field.type):
        return
    wanted = "text or a list of texts" if role == "caption" else "text"
    raise UserError(
        f"{uri}: wanted {wanted} in column {field.name}, got {field.type}; "
        f"name another column by --{role.replace('_', '-')}-column"
    )


def _is_text(type_: pa.DataType) -> bool:
    """Text, bytes that may be text, whole numbers (an image_id may be one), or nothing but nulls."""
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    checks = ("string", "large_string", "string_view", "binary", "large_binary", "integer", "null")
    return any(getattr(pa.types, f"is_{check}")(type_) for check in checks)


def _is_flag(field: pa.Field) -> bool:
    """Whether a column of truth values or numbers has a name that a safety flag has."""
    return _is_flag_type(field.type) and field.name.lower() in CANDIDATES["safety"]


def _is_flag_type(type_: pa.DataType) -> bool:
    return pa.types.is_boolean(type_) or pa.types.is_floating(type_)


def _is_list(type_: pa.DataType) -> bool:
    checks = ("list", "large_list", "fixed_size_list")
    return any(getattr(pa.types, f"is_{check}")(type_) for check in checks) and _is_text(type_.value_type)


def texts(column: pa.Array) -> list[Any]:
    """A column's values; bytes that are not UTF-8 become text that the rows' checks refuse."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(_as_binary(column.type)).to_pylist()
    return [_decoded(value) for value in values] if _holds_bytes(values) else values


def _as_binary(type_: pa.DataType) -> pa.DataType:
    return pa.list_(pa.binary()) if _is_list(type_) else pa.binary()


def _holds_bytes(values: list[Any]) -> bool:
    first = next((value for value in values if value), None)
    return isinstance(first[0] if isinstance(first, list) else first, bytes)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
