"""The rows of a finished run's PAIRS in groups of whole units, since most of what is done to rows costs by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.derived_run import Source, read_source_columns, unit_parts
from pipelines.selection import Selection
from schemas import PAIRS, SchemaError, UserError, conform

ROWS_PER_GROUP = 8192
BYTES_PER_GROUP = 1 << 26
"""What units that are selected from together hold, about; 64 MB, which rows with crops reach first."""


class Group(NamedTuple):
    """Units that are selected from together: their numbers, and the rows of each."""

    units: list[int]
    parts: list[pa.Table]

    @property
    def rows(self) -> pa.Table:
        """The rows of all its units, each column in one piece: whatever is done to rows is done piece by piece."""
        return pa.concat_tables(self.parts).combine_chunks()

    def by_unit(self, selection: Selection) -> Iterator[tuple[int, int, pa.Table, pa.Table]]:
        """What came of each unit: its number, the rows it had, those kept, and its drops; each in their order."""
        images = [part["image_id"].unique() for part in self.parts]
        unit_of = np.repeat(np.arange(len(images)), [len(each) for each in images])
        kept, dropped = (cut(rows, pa.concat_arrays(images), unit_of, len(images)) for rows in selection)
        yield from zip(self.units, [part.num_rows for part in self.parts], kept, dropped, strict=True)


def cut(rows: pa.Table, images: pa.Array, unit_of: np.ndarray, units: int) -> list[pa.Table]:
    """Rows of a group (with image_id) by unit: of image i of `images` it is number unit_of[i], of `units`."""
    unit_N = unit_of[pc.index_in(rows["image_id"], images).to_numpy()]
    ends = np.cumsum(np.bincount(unit_N, minlength=units))
    ordered = rows.take(pa.array(np.argsort(unit_N, kind="stable")))
    return [ordered.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def groups_of_units(source: Source, columns: Sequence[str]) -> Iterator[Group]:
    """Some columns of all units, in groups of ROWS_PER_GROUP rows or BYTES_PER_GROUP bytes, or a little more."""
    group, room, rows_left = Group([], []), BYTES_PER_GROUP, ROWS_PER_GROUP
    for unit, name in unit_parts(source.parts("pairs")):
        part = read_source_columns(source, name, columns)
        group.units.append(unit)
        group.parts.append(part)
        room, rows_left = room - part.nbytes, rows_left - part.num_rows
        if room <= 0 or rows_left <= 0:
            yield group
            group, room, rows_left = Group([], []), BYTES_PER_GROUP, ROWS_PER_GROUP
    if group.units:
        yield group


def checked_rows(source: Source, group: Group) -> pa.Table:
    """The rows of a group, checked.

    Raises:
        UserError: they break the contract of PAIRS.
    """
    try:
        return conform(group.rows, PAIRS)
    except SchemaError as error:
        units = f"{group.units[0]} to {group.units[-1]}"
        raise UserError(f"RUN {source.run.url}: {error} (counted over units {units}); mine them again") from error
