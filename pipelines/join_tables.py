"""One unit of several runs → one unit: the rows of their union, whichever run comes first.

Rows of an image that one run alone has pass through, column by column. Where several have it, captions are one by
their text, masks by their RLE, nouns by their place and pairs by pair_id; of rows that tell the same record, the one
that sorts first stays.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.join_images import of_images
from pipelines.units import drop
from schemas import MASKS, PAIRS, TABLES

STAGE = "merge_runs"

Tables = dict[str, pa.Table]
"""Rows of one unit by the name of their table."""

SORTED_BY = {
    "captions": ("image_id", "caption_index"),
    "nouns": ("image_id", "caption_index", "start_char", "end_char", "noun"),
    "masks": ("image_id", "mask_index"),
    "pairs": ("image_id", "caption_index", "start_char", "mask_rank", "end_char", "pair_id"),
}
"""The order of each table's rows."""

COUNTS = "counts"
"""The RLE of a mask as a column of its own, while rows are compared."""

SAME_RECORD = {
    "captions": ("image_id", "caption"),
    "nouns": ("image_id", "caption_index", "start_char", "end_char", "noun"),
    "masks": ("image_id", COUNTS),
    "pairs": ("image_id", "pair_id"),
}
"""The columns by which two rows of an image tell the same record."""

FIRST_BY = {"captions": (), "nouns": (), "masks": ("generator",), "pairs": ("scorer", "generator")}
"""The columns by which one of them sorts first; then it is the others, in the schema's order, nulls last."""

Key = tuple[str, str]
"""An image_id, and what tells a caption (its text) or a mask (its RLE counts) of the image."""


class Record(NamedTuple):
    """A caption or a mask as one run numbers it; `maker` is a mask's generator."""

    key: Key
    number: int
    maker: str = ""


@dataclass(frozen=True)
class Numbers:
    """New numbers of captions and masks, of images whose runs number them otherwise; other images keep theirs."""

    captions: dict[Key, int] = field(default_factory=dict)
    masks: dict[Key, int] = field(default_factory=dict)


class Joined(NamedTuple):
    """The union of one unit's rows, and which PAIRS rows another run had already (DROPS rows)."""

    tables: Tables
    drops: list[dict[str, Any]]
    numbers: Numbers


def join_unit(runs: Sequence[Tables], tables: Iterable[str]) -> Joined:
    """The union of the rows of one unit, table by table; `tables` are those that all runs have."""
    shared, names = shared_images(runs, tables), list(tables)
    numbers = numbers_of([{name: of_images(run[name], shared) for name in names} for run in runs])
    runs = [renumbered(run, numbers) for run in runs]
    joined: Tables = {}
    drops: list[dict[str, Any]] = []
    for name in names:
        joined[name], duplicates = union(name, [run[name] for run in runs], shared)
        drops += duplicates
    if "captions" in joined:
        joined["captions"] = with_one_uri(joined["captions"], shared_uris(runs, shared))
    return Joined(joined, drops, numbers)


def shared_images(runs: Sequence[Tables], tables: Iterable[str]) -> set[str]:
    """The images that more than one run has rows of."""
    first = next(iter(tables))
    counts = Counter[str]()
    for run in runs:
        counts.update(run[first]["image_id"].unique().to_pylist())
    return {image_id for image_id, count in counts.items() if count > 1}


# Numbers of captions and masks


def numbers_of(runs: Sequence[Tables]) -> Numbers:
    """New numbers for captions and masks of the images that these rows are of."""
    captions = (record for run in runs for record in caption_records(run))
    masks = (record for run in runs for record in mask_records(run))
    return Numbers(renumbering(captions, caption_order), renumbering(masks, mask_order))


def renumbering(records: Iterable[Record], order: Callable[[Record], Any]) -> dict[Key, int]:
    """By key the new numbers, from 0, of all records of the images that are numbered in two ways.

    Two ways: a number stands for two records, or a record has two numbers.
    """
    of_image: dict[str, set[Record]] = defaultdict(set)
    for record in records:
        of_image[record.key[0]].add(record)
    numbers: dict[Key, int] = {}
    for same_image in of_image.values():
        if is_ambiguous(same_image):
            keys = dict.fromkeys(record.key for record in sorted(same_image, key=order))
            numbers |= {key: number for number, key in enumerate(keys)}
    return numbers


def is_ambiguous(records: set[Record]) -> bool:
    """Whether numbers and records of an image do not stand for each other one to one."""
    pairs = {(record.key, record.number) for record in records}
    return len({key for key, _ in pairs}) < len(pairs) or len({number for _, number in pairs}) < len(pairs)


def caption_order(record: Record) -> tuple[int, bytes]:
    """By the lowest number, then by a hash: the alphabet would make the first caption a biased choice."""
    return record.number, hashlib.sha256(record.key[1].encode()).digest()


def mask_order(record: Record) -> tuple[str, int, str]:
    """By generator, so that each one's masks stay together in its order."""
    return record.maker, record.number, record.key[1]


def caption_records(run: Tables) -> Iterator[Record]:
    """The captions that a run's rows name: all of CAPTIONS, else those of PAIRS."""
    rows = run["captions"] if "captions" in run else run["pairs"]
    columns = (rows[name].to_pylist() for name in ("image_id", "caption", "caption_index"))
    for image_id, caption, number in zip(*columns, strict=True):
        yield Record((image_id, caption), number)


def mask_records(run: Tables) -> Iterator[Record]:
    """The masks that a run's rows name: all of MASKS, else those of PAIRS, runner-ups too."""
    if "masks" in run:
        yield from records_of_masks(run["masks"])
    elif "pairs" in run:
        yield from records_of_masks(run["pairs"])
        yield from records_of_masks(runner_ups(run["pairs"]))


def records_of_masks(rows: pa.Table) -> Iterator[Record]:
    """The masks of rows that have them as columns."""
    counts = pc.struct_field(rows["mask"], "counts").to_pylist()
    columns = (rows[name].to_pylist() for name in ("image_id", "mask_index", "generator"))
    for image_id, number, generator, each in zip(*columns, counts, strict=True):
        yield Record((image_id, each), number, generator)


def runner_ups(pairs: pa.Table) -> pa.Table:
    """The elements of runner_up_masks as rows, each with image_id and generator of its pair."""
    column = one_array(pairs["runner_up_masks"])
    row, elements = pc.list_parent_indices(column), column.flatten()
    columns = {name: pairs[name].take(row) for name in ("image_id", "generator")}
    return pa.table(columns | {name: elements.field(name) for name in ("mask_index", "mask")})


# Rows under new numbers


def renumbered(run: Tables, numbers: Numbers) -> Tables:
    """A run's rows with the new numbers."""
    tables = dict(run)
    if numbers.captions:
        tables |= dict(with_caption_numbers(run, numbers.captions))
    for name in {"masks", "pairs"} & set(run) if numbers.masks else ():
        tables[name] = with_mask_numbers(tables[name], numbers.masks)
    if "pairs" in run and numbers.masks:
        tables["pairs"] = with_runner_up_numbers(tables["pairs"], numbers.masks)
    return tables


def with_caption_numbers(run: Tables, numbers: dict[Key, int]) -> Iterator[tuple[str, pa.Table]]:
    """The tables that name captions, with the new caption_index; those that have no text go by the old number."""
    for name in {"captions", "pairs"} & set(run):
        keys = zip(run[name]["image_id"].to_pylist(), run[name]["caption"].to_pylist(), strict=True)
        yield name, with_numbers(run[name], "caption_index", keys, numbers)
    if "nouns" in run:
        keys = zip(run["nouns"]["image_id"].to_pylist(), run["nouns"]["caption_index"].to_pylist(), strict=True)
        yield "nouns", with_numbers(run["nouns"], "caption_index", keys, caption_moves(run, numbers))


def caption_moves(run: Tables, numbers: dict[Key, int]) -> dict[tuple[str, int], int]:
    """By image_id and the run's own caption_index, the new one."""
    records = (record for record in caption_records(run) if record.key in numbers)
    return {(record.key[0], record.number): numbers[record.key] for record in records}


def with_mask_numbers(rows: pa.Table, numbers: dict[Key, int]) -> pa.Table:
    """MASKS or PAIRS rows with the new mask_index."""
    return with_numbers(rows, "mask_index", (record.key for record in records_of_masks(rows)), numbers)


def with_runner_up_numbers(pairs: pa.Table, numbers: dict[Key, int]) -> pa.Table:
    """PAIRS rows whose runner_up_masks have the new mask_index."""
    column = one_array(pairs["runner_up_masks"])
    moved = with_mask_numbers(runner_ups(pairs), numbers)["mask_index"]
    elements = column.flatten()
    fields = list(elements.type)
    arrays = [one_array(moved) if each.name == "mask_index" else elements.field(each.name) for each in fields]
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy(zero_copy_only=False))])
    lists = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(arrays, fields=fields), type=column.type
    )
    return with_column(pairs, "runner_up_masks", lists)


def with_numbers(rows: pa.Table, column: str, keys: Iterable[Any], numbers: dict[Any, int]) -> pa.Table:
    """Rows with a column of numbers anew; a key without a new number keeps its row's."""
    old = rows[column].to_pylist()
    new = [numbers.get(key, number) for key, number in zip(keys, old, strict=True)]
    return with_column(rows, column, pa.array(new, pa.int32()))


def with_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Rows with other values in one column."""
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


# The union of rows


def union(name: str, parts: Sequence[pa.Table], shared: set[str]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The rows of a table in its order, and a drop for each row of PAIRS that tells a record that another tells."""
    rows = pa.concat_tables(parts)
    alone, several = of_images(rows, shared, wanted=False), of_images(rows, shared)
    kept, drops = first_rows(name, several)
    joined = pa.concat_tables([alone, kept]).combine_chunks()
    return joined.sort_by([(column, "ascending") for column in SORTED_BY[name]]), drops


def first_rows(name: str, rows: pa.Table) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Of the rows that tell one record, the first; and drops of the others, in PAIRS: elsewhere equal rows are one."""
    if not rows.num_rows:
        return rows, []
    rows = in_order_of_choice(name, rows)
    is_first = begins_record(name, rows)
    first_of = np.maximum.accumulate(np.where(is_first, np.arange(len(is_first)), 0))
    drops = duplicates(rows, np.flatnonzero(~is_first), first_of) if name == PAIRS.name else []
    return rows.filter(pa.array(is_first)), drops


def in_order_of_choice(name: str, rows: pa.Table) -> pa.Table:
    """Rows of one record side by side, the one that is kept before the others.

    Columns decide; only where all plain ones are equal and a nested one is not, rows are compared as text.
    """
    plain = [each.name for each in TABLES[name].schema if not pa.types.is_nested(each.type)]
    keys = dict.fromkeys([*SAME_RECORD[name], *FIRST_BY[name], *plain])
    rows = with_counts(name, rows)
    rows = rows.take(pc.sort_indices(rows, [(key, "ascending") for key in keys]))
    columns = [column for column in keys if column != COUNTS or name == MASKS.name]
    rows = rows if nested_agree(rows, columns) else sorted_as_text(rows, columns)
    return rows.select(TABLES[name].schema.names)


def with_counts(name: str, rows: pa.Table) -> pa.Table:
    """Rows of MASKS with the RLE's counts as a column; those of other tables as they are."""
    return rows.append_column(COUNTS, pc.struct_field(rows["mask"], "counts")) if name == MASKS.name else rows


def nested_agree(rows: pa.Table, columns: Sequence[str]) -> bool:
    """Whether neighbours that are equal in some columns are so in all; rows are sorted by these."""
    again = np.flatnonzero(~starts(rows, columns))
    others = [each for each in rows.column_names if each not in columns]
    now, before = rows.select(others).take(again), rows.select(others).take(again - 1)
    return now.equals(before)


def sorted_as_text(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows sorted by some columns as they are already, and within equal ones by what else they say."""
    group = np.cumsum(starts(rows, columns))
    texts = [repr(row) for row in rows.to_pylist()]
    return rows.take(sorted(range(rows.num_rows), key=lambda row: (group[row], texts[row])))


def begins_record(name: str, rows: pa.Table) -> np.ndarray:
    """For each row, whether it tells another record than the one before it: bool (rows,)."""
    return starts(with_counts(name, rows), SAME_RECORD[name])


def starts(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """For each row, whether any of some plain columns differs from the row before: bool (rows,); the first does."""
    differs = np.ones(rows.num_rows, bool)
    differs[1:] = False
    for column in columns:
        values = one_array(rows[column])
        now, before = values.slice(1), values.slice(0, max(0, len(values) - 1))
        unequal = pc.fill_null(pc.not_equal(now, before), False).to_numpy(zero_copy_only=False)
        differs[1:] |= unequal | (now.is_valid().to_numpy(False) != before.is_valid().to_numpy(False))
    return differs


def duplicates(rows: pa.Table, dropped: np.ndarray, first_of: np.ndarray) -> list[dict[str, Any]]:
    """A drop for each of some PAIRS rows, naming the row that is kept instead."""
    lost = rows.select(["pair_id", "image_id", "scorer"]).take(dropped).to_pylist()
    kept = rows.select(["scorer", "generator", "caption_index"]).take(first_of[dropped]).to_pylist()
    return [duplicate(*each) for each in zip(lost, kept, strict=True)]


def duplicate(lost: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The drop of a PAIRS row."""
    scored = f"scored by {lost['scorer']}" if lost["scorer"] != kept["scorer"] else "scored by the same"
    detail = f"kept is that of {lost['image_id']}#{kept['caption_index']} by {kept['scorer']} on {kept['generator']}"
    return drop(STAGE, lost["pair_id"], lost["image_id"], "duplicate_record", f"{detail}; this one was {scored}")


# Where the image is


def shared_uris(runs: Sequence[Tables], shared: set[str]) -> dict[str, str]:
    """The URI of each shared image that has one in CAPTIONS: the smallest, as where one input names several."""
    uris: dict[str, str] = {}
    for run in runs:
        rows = of_images(run["captions"], shared).select(["image_id", "image_uri"])
        for image_id, uri in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            if uri:
                uris[image_id] = min(uri, uris.get(image_id, uri))
    return uris


def with_one_uri(captions: pa.Table, uris: dict[str, str]) -> pa.Table:
    """CAPTIONS rows in which an image has one URI."""
    if not uris:
        return captions
    known = zip(captions["image_id"].to_pylist(), captions["image_uri"].to_pylist(), strict=True)
    unified = [uris.get(image_id, uri) for image_id, uri in known]
    return with_column(captions, "image_uri", pa.array(unified, pa.string()))
