"""PAIRS rows kept, and DROPS rows for the others: what every way of selecting gives.

Two ways are here: by a condition, and by whole images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ovseg_model.pair_filter import RowFilter
from schemas import DROPS

STAGE = "filter_pairs"


class Selection(NamedTuple):
    """Rows that are kept (PAIRS, or some of its columns) and the drops of the others (DROPS, in the rows' order)."""

    kept: pa.Table
    dropped: pa.Table


Select = Callable[[pa.Table], Selection]
"""One way of selecting: rows of one unit, images whole, in; every row comes out kept or dropped."""


def select(rows: pa.Table, ways: Iterable[Select]) -> Selection:
    """What is left after one way of selecting after the other, and all drops."""
    dropped = []
    for way in ways:
        rows, drops = way(rows)
        dropped.append(drops)
    return Selection(rows, pa.concat_tables(dropped) if dropped else DROPS.schema.empty_table())


def split_rows(rows: pa.Table, keep_N: np.ndarray, reason: str, details: pa.Array | str) -> Selection:
    """Keeps some rows and drops the others for a reason.

    Args:
        rows: with pair_id and image_id.
        keep_N: bool, one value a row.
        reason: of schemas.drops.
        details: a string a dropped row, or one for all.
    """
    if keep_N.all():
        return Selection(rows, DROPS.schema.empty_table())
    return Selection(rows.filter(pa.array(keep_N)), drop_rows(rows.filter(pa.array(~keep_N)), reason, details))


def drop_rows(rows: pa.Table, reason: str, details: pa.Array | str) -> pa.Table:
    """The drop of each row: keyed by its pair_id."""
    words = pa.repeat(pa.scalar(details), rows.num_rows) if isinstance(details, str) else details
    stage, why = (pa.repeat(pa.scalar(text), rows.num_rows) for text in (STAGE, reason))
    return pa.Table.from_arrays([stage, rows["pair_id"], rows["image_id"], why, words], schema=DROPS.schema)


def select_where(rows: pa.Table, row_filter: RowFilter) -> Selection:
    """Keeps the rows for which the condition holds; a drop names the first part of the condition that does not."""
    failed_N = first_failing(rows, row_filter)
    texts = pa.array([f"not so: {condition.text}" for condition in row_filter.conditions])
    return split_rows(rows, failed_N < 0, "not_selected", texts.take(pa.array(failed_N[failed_N >= 0])))


def first_failing(rows: pa.Table, row_filter: RowFilter) -> np.ndarray:
    """Which of the conditions that `and` joins is the first not to hold: int64, one a row, -1 where all hold."""
    failed_N = np.full(rows.num_rows, -1)
    left = rows.select(row_filter.columns).append_column("place", pa.array(np.arange(rows.num_rows)))
    for number, condition in enumerate(row_filter.conditions):
        passing = left.filter(condition.expression)
        if passing.num_rows < left.num_rows:
            failed_N[np.setdiff1d(left["place"].to_numpy(), passing["place"].to_numpy())] = number
        left = passing
    return failed_N


def select_images(rows: pa.Table, gone: Mapping[str, str], reason: str) -> Selection:
    """Keeps the rows of all images but those that are gone; `gone` says by image_id, in words, why."""
    encoded = rows["image_id"].combine_chunks().dictionary_encode()
    why = pa.array([gone.get(image_id) for image_id in encoded.dictionary.to_pylist()], pa.string())
    why_N = why.take(encoded.indices)
    return split_rows(rows, why_N.is_null().to_numpy(zero_copy_only=False), reason, why_N.drop_null())
