"""Records on their way to their units: spilled into bucket files by the hash of their image, read back by bucket."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.write_tables import writing

BUCKETS = 256
"""Bucket files; a power of two, so that buckets and units nest."""

ROWS_PER_FLUSH = 100_000
"""Records held in memory before they are appended to their buckets, 50 to 100 MB of captions."""


class Spill:
    """Bucket files in a temporary folder that is removed at the end; record r lies in bucket digest(r) mod 256.

    `schema` must have a uint64 column `digest` and a string column `image_id`.
    """

    def __init__(self, schema: pa.Schema, parent: str | None = None) -> None:
        """Makes the folder under `parent` (None: the system's temporary folder)."""
        self._schema = schema
        self._parent = parent

    def __enter__(self) -> Spill:
        """Opens the folder; raises UserError where none can be made."""
        with writing(self._parent or tempfile.gettempdir()):
            if self._parent:
                os.makedirs(self._parent, exist_ok=True)
            self._folder = tempfile.mkdtemp(prefix=".spill-", dir=self._parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the folder with all that was spilled."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, records: Iterable[tuple[Any, ...]]) -> None:
        """Spills records, tuples in the schema's order, in one pass; raises UserError where the disk is full."""
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        remaining = iter(records)
        with writing(self._folder), closing_all(writers):
            while rows := tuple(islice(remaining, ROWS_PER_FLUSH)):
                self._append(rows, writers)

    def read(self, buckets: Iterable[int]) -> pa.Table:
        """All records of some buckets."""
        tables = [self._read_bucket(path) for path in map(self._path, buckets) if os.path.exists(path)]
        return pa.concat_tables(tables) if tables else self._schema.empty_table()

    def count_images(self) -> int:
        """Distinct image_ids of all records; an image lies in one bucket, so the buckets' counts add up."""
        return sum(pc.count_distinct(self.read([bucket])["image_id"]).as_py() for bucket in range(BUCKETS))

    def _append(self, rows: tuple[tuple[Any, ...], ...], writers: dict[int, pa.ipc.RecordBatchStreamWriter]) -> None:
        batch = pa.record_batch([pa.array(values, field.type) for values, field in self._columns(rows)], self._schema)
        for bucket, indices in _indices_by_bucket(batch["digest"].to_numpy()):
            if bucket not in writers:
                writers[bucket] = pa.ipc.new_stream(self._path(bucket), self._schema)
            writers[bucket].write_batch(batch.take(pa.array(indices)))

    def _columns(self, rows: tuple[tuple[Any, ...], ...]) -> Iterator[tuple[tuple[Any, ...], pa.Field]]:
        return zip(zip(*rows, strict=True), self._schema, strict=True)

    def _path(self, bucket: int) -> str:
        return os.path.join(self._folder, f"bucket-{bucket:03d}.arrows")

    @staticmethod
    def _read_bucket(path: str) -> pa.Table:
        with pa.ipc.open_stream(path) as reader:
            return reader.read_all()


@contextlib.contextmanager
def closing_all(writers: dict[int, pa.ipc.RecordBatchStreamWriter]) -> Iterator[None]:
    """Closes every writer at the end, those behind one that cannot be closed too."""
    with contextlib.ExitStack() as stack:
        try:
            yield
        finally:
            for writer in writers.values():
                stack.callback(writer.close)


def _indices_by_bucket(digests: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Row indices of each bucket that occurs, in row order, from uint64 digests of shape (rows,)."""
    buckets = (digests % np.uint64(BUCKETS)).astype(np.int64)
    order = np.argsort(buckets, kind="stable")
    present, starts = np.unique(buckets[order], return_index=True)
    return zip(present.tolist(), np.split(order, starts[1:]), strict=True)
