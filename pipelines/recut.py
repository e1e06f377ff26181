"""Rows of a finished run by the units of another cut.

A run that is cut by hash has the rows of a unit in one part of its own, since its count divides the other's. Of a run
that is cut along tar shards, and of images under new names, rows lie anywhere: they are spilled into bucket files by
the hash of their image first. Memory holds one part or one bucket of each table, whichever is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.derived_run import Source, read_source_columns, read_source_part
from pipelines.units import drops_name, image_digest, part_name
from pipelines.write_tables import writing
from schemas import DROPS, TABLES

BUCKETS = 256
"""Bucket files of a table at most; a power of two, so that buckets and units nest."""

BUFFER_BYTES = 64 * 2**20
"""Rows of one table held before they are appended to their buckets."""


def kind_name(kind: str, unit: int) -> str:
    """Where a unit's rows of a table, or the drops of a stage, lie in a run; `kind` is the table's or stage's name."""
    return part_name(kind, unit) if kind in TABLES else drops_name(kind, unit)


def empty_rows(kind: str) -> pa.Table:
    """No rows of a table, or no drops of a stage."""
    return TABLES.get(kind, DROPS).schema.empty_table()


def digests(rows: pa.Table) -> np.ndarray:
    """uint64 (rows,): the digest of each row's image; of a drop without one that of its key."""
    names = rows["image_id"]
    if "key" in rows.column_names:
        names = pc.coalesce(names, rows["key"])
    encoded = names.combine_chunks().dictionary_encode()
    distinct = np.array([image_digest(name) for name in encoded.dictionary.to_pylist()], np.uint64)
    return distinct[encoded.indices.to_numpy()] if len(encoded) else np.empty(0, np.uint64)


def of_unit(rows: pa.Table, unit: int, count: int) -> pa.Table:
    """The rows whose image lies in a unit, of a cut by hash into `count`."""
    return rows.filter(pa.array(digests(rows) % np.uint64(count) == unit))


def units_in_order(count: int) -> Iterator[int]:
    """All units of a cut, those of one bucket one after the other."""
    yield from (unit for bucket in range(min(count, BUCKETS)) for unit in range(bucket, count, BUCKETS))


class RowSpill:
    """Rows of several tables in bucket files of a local folder; row r lies in bucket digest(r) mod `buckets`."""

    def __init__(self, folder: str, count: int) -> None:
        """`count` is that of the cut that rows are asked for by."""
        self._folder, self._count = folder, count
        self._buckets = min(count, BUCKETS)
        self._waiting: dict[str, list[pa.Table]] = {}
        self._held: dict[str, tuple[int, pa.Table]] = {}

    def add(self, name: str, rows: pa.Table) -> None:
        """Spills rows of a table of that name; raises UserError where the disk is full."""
        if rows.num_rows:
            waiting = self._waiting.setdefault(name, [])
            waiting.append(rows)
            if sum(each.nbytes for each in waiting) >= BUFFER_BYTES:
                self._flush(name)

    def read(self, name: str, kind: str, unit: int) -> pa.Table:
        """The rows of a unit, in the order in which they were spilled; none where nothing was."""
        if name in self._waiting:
            self._flush(name)
        bucket = unit % self._buckets
        if name not in self._held or self._held[name][0] != bucket:
            self._held[name] = bucket, self._read_bucket(name, kind, bucket)
        return of_unit(self._held[name][1], unit, self._count)

    def _flush(self, name: str) -> None:
        rows = pa.concat_tables(self._waiting.pop(name)).combine_chunks()
        bucket_of_row = (digests(rows) % np.uint64(self._buckets)).astype(np.int64)
        with writing(self._folder):
            for bucket in np.unique(bucket_of_row).tolist():
                self._append(name, bucket, rows.take(pa.array(np.flatnonzero(bucket_of_row == bucket))))

    def _append(self, name: str, bucket: int, rows: pa.Table) -> None:
        plain = pa.schema([field.remove_metadata() for field in rows.schema])  # descriptions once a file is enough
        with open(self._path(name, bucket), "ab") as file, pa.ipc.new_stream(file, plain) as stream:
            stream.write_table(pa.Table.from_arrays(rows.columns, schema=plain))

    def _read_bucket(self, name: str, kind: str, bucket: int) -> pa.Table:
        path, empty = self._path(name, bucket), empty_rows(kind)
        if not os.path.exists(path):
            return empty
        tables = []
        with open(path, "rb") as file:
            while file.tell() < os.path.getsize(path):
                with pa.ipc.open_stream(file) as stream:
                    tables.append(stream.read_all())
        rows = pa.concat_tables(tables)
        return pa.Table.from_arrays(rows.columns, schema=empty.schema)

    def _path(self, name: str, bucket: int) -> str:
        return os.path.join(self._folder, f"{name}-{bucket:03d}.arrows")


class SourceRows:
    """A source's rows by the units of a cut by hash into `count`, which its own count divides if it is one too."""

    def __init__(self, name: str, source: Source, count: int, spill: RowSpill) -> None:
        """`name` is the source's in the spill, of its own."""
        self.source = source
        self._name, self._count, self._spill = name, count, spill
        self._spilled: set[str] = set()
        self._held: dict[str, tuple[int, pa.Table]] = {}
        listed = (part for facts in source.tables.values() for part in facts["parts"])
        self._without_rows = {part["path"] for part in listed if not part["rows"]}

    def read(self, kind: str, unit: int) -> pa.Table:
        """The rows of a table, or the drops of a stage, of a unit.

        Raises:
            UserError: a part is missing or damaged.
        """
        if self.source.units.scheme != "hash":
            self._spill_once(kind)
            return self._spill.read(f"{self._name}-{kind}", kind, unit)
        own = unit % self.source.units.count
        if kind not in self._held or self._held[kind][0] != own:
            self._held[kind] = own, self._read_part(kind, own)
        rows = self._held[kind][1]
        return rows if self.source.units.count == self._count else of_unit(rows, unit, self._count)

    def read_columns(self, kind: str, unit: int, columns: tuple[str, ...]) -> pa.Table:
        """The same of some columns, image_id among them; of parts that need not be spilled, nothing else is read.

        Raises:
            UserError: a part is missing or damaged.
        """
        if self.source.units.scheme != "hash":
            return self.read(kind, unit).select(columns)
        own = unit % self.source.units.count
        rows = read_source_columns(self.source, kind_name(kind, own), columns)
        return rows if self.source.units.count == self._count else of_unit(rows, unit, self._count)

    def _spill_once(self, kind: str) -> None:
        if kind not in self._spilled:
            for unit in range(self.source.units.count):
                self._spill.add(f"{self._name}-{kind}", self._read_part(kind, unit))
            self._spilled.add(kind)

    def _read_part(self, kind: str, unit: int) -> pa.Table:
        name = kind_name(kind, unit)
        return empty_rows(kind) if name in self._without_rows else read_source_part(self.source, name)
