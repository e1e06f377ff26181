"""What a table is: a pyarrow schema whose fields carry a description and a unit, and checks on its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

Check = Callable[[pa.Table], pa.Array]

RLE = pa.struct(
    [
        pa.field("size", pa.list_(pa.field("element", pa.int32(), nullable=False), 2), nullable=False),
        pa.field("counts", pa.string(), nullable=False),
    ]
)
"""COCO's run-length encoding: size (height, width) in px and the compressed counts, column by column."""

BOX_XYWH = pa.list_(pa.field("element", pa.int32(), nullable=False), 4)
"""A box in image pixels: x and y of its left top pixel, then width and height."""

SCORED_NOUN = pa.struct(
    [pa.field("noun", pa.string(), nullable=False), pa.field("cosine", pa.float32(), nullable=False)]
)
"""A noun and the cosine between its embedding and a masked region's."""


SCORED_MASK = pa.struct(
    [
        pa.field("mask_index", pa.int32(), nullable=False),
        pa.field("mask", RLE, nullable=False),
        pa.field("box_xywh_px", BOX_XYWH, nullable=False),
        pa.field("area_px", pa.int32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("noun_rank", pa.int32(), nullable=False),
        pa.field("margin", pa.float32()),
        pa.field("runner_up_nouns", pa.list_(pa.field("element", SCORED_NOUN, nullable=False)), nullable=False),
    ]
)
"""A mask that a noun could have had instead: all that PAIRS would say of the two, so that a choice is a query."""


@dataclass(frozen=True)
class ValueCheck:
    """A promise about the values of one column that the type alone cannot make.

    `holds` maps a conforming table to a boolean array, one value a row; null counts as kept.
    """

    column: str
    wanted: str
    holds: Check


@dataclass(frozen=True)
class Table:
    """One table of the contract: its name, its schema with version, what a row is, and its value checks."""

    name: str
    version: int
    row: str
    schema: pa.Schema
    checks: tuple[ValueCheck, ...] = ()


def column(name: str, type_: pa.DataType, description: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    """A field whose metadata carries its description and, where it has one, its unit."""
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, type_, nullable=nullable, metadata=metadata)


def table(name: str, version: int, row: str, fields: list[pa.Field], checks: tuple[ValueCheck, ...] = ()) -> Table:
    """A table whose schema metadata names it and its version, as every file of it does."""
    metadata = {"ovseg.table": name, "ovseg.table_version": str(version)}
    return Table(name, version, row, pa.schema(fields, metadata=metadata), checks)


def describe(field: pa.Field) -> tuple[str, str]:
    """Description and unit ("" where it has none) of a field made by `column`."""
    metadata = field.metadata or {}
    return metadata[b"description"].decode(), metadata.get(b"unit", b"").decode()
