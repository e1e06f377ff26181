"""Rows or a table against a table's schema, at every read and every write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import Table, ValueCheck


class SchemaError(ValueError):
    """Data that breaks the contract; the message names table, column, row, wanted and got."""


def conform(data: pa.Table, table: Table) -> pa.Table:
    """Returns `data` with exactly the table's columns, types and metadata, checked value by value.

    Columns may come in any order; types must be equal, nothing is cast.

    Raises:
        SchemaError: a column is missing, unknown or of another type, or a value breaks a promise.
    """
    _check_names(data.column_names, table)
    ordered = data.select(table.schema.names)
    for field in table.schema:
        _check_type(ordered, field, table)
        _check_nulls(ordered, field, table)
    conformed = pa.Table.from_arrays(ordered.columns, schema=table.schema)
    for check in table.checks:
        _check_values(conformed, check, table)
    return conformed


def conform_columns(data: pa.Table, table: Table) -> pa.Table:
    """Returns `data`, some columns of the table as they were read, checked as far as they go.

    A promise about values that needs a column which is not there is not checked.

    Raises:
        SchemaError: a column is unknown or of another type, or a value breaks a promise.
    """
    read = set(data.column_names)
    _check_names([*data.column_names, *(_names(table) - read)], table)
    for field in table.schema:
        if field.name in read:
            _check_type(data, field, table)
            _check_nulls(data, field, table)
    for check in table.checks:
        if check.column in read:
            # The column that the promise is about is there; which others it looks at, only `holds` knows.
            with suppress(KeyError):
                _check_values(data, check, table)
    return data


def conform_rows(rows: Sequence[dict[str, Any]], table: Table) -> pa.Table:
    """A conforming table of dict rows; each row has exactly the table's columns.

    Raises:
        SchemaError: as `conform`, and for a value that does not fit its column's type.
    """
    names = _names(table)
    for index, row in enumerate(rows):
        if row.keys() != names:
            _check_names(list(row), table, index)
    return conform_lists({name: [row[name] for row in rows] for name in table.schema.names}, table)


def conform_lists(columns: Mapping[str, list[Any]], table: Table) -> pa.Table:
    """A conforming table of lists of values, one a column, of one length.

    Raises:
        SchemaError: as `conform`, and for a value that does not fit its column's type.
    """
    _check_names(list(columns), table)
    arrays = [_array(columns[field.name], field, table) for field in table.schema]
    return conform(pa.Table.from_arrays(arrays, names=table.schema.names), table)


def _names(table: Table) -> set[str]:
    return set(table.schema.names)


def _check_names(names: Sequence[str], table: Table, row: int | None = None) -> None:
    missing, unknown = _names(table) - set(names), set(names) - _names(table)
    if missing or unknown or len(names) != len(set(names)):
        place = table.name if row is None else f"{table.name}, row {row}"
        raise SchemaError(
            f"{place}: wanted the columns {', '.join(table.schema.names)}; "
            f"missing: {', '.join(sorted(missing)) or 'none'}; unknown: {', '.join(sorted(unknown)) or 'none'}"
        )


def _array(values: list[Any], field: pa.Field, table: Table) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError) as error:
        row = next(index for index, value in enumerate(values) if not _fits(value, field.type))
        raise SchemaError(
            f"{table.name}, column {field.name}, row {row}: wanted {field.type}, got {values[row]!r} ({error})"
        ) from error


def _fits(value: Any, type_: pa.DataType) -> bool:
    try:
        pa.array([value], type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError):
        return False
    return True


def _check_type(data: pa.Table, field: pa.Field, table: Table) -> None:
    got = data.schema.field(field.name).type
    if not got.equals(field.type):
        raise SchemaError(f"{table.name}, column {field.name}: wanted {field.type}, got {got}")


def _check_nulls(data: pa.Table, field: pa.Field, table: Table) -> None:
    values = data[field.name]
    if not field.nullable and values.null_count:
        row = pc.index(values.is_null(), True).as_py()
        raise SchemaError(f"{table.name}, column {field.name}, row {row}: wanted {field.type}, got null")


def _check_values(data: pa.Table, check: ValueCheck, table: Table) -> None:
    if not data.num_rows:
        return
    kept = pc.fill_null(check.holds(data), True)
    row = pc.index(kept, pa.scalar(False)).as_py()
    if row >= 0:
        got = data[check.column][row].as_py()
        raise SchemaError(f"{table.name}, column {check.column}, row {row}: wanted {check.wanted}, got {got!r}")
