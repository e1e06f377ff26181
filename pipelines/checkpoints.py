"""Checkpoints inside a unit: images that are done, kept until the part stands, so that a crash loses a minute."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.write_tables import UNFINISHED_FOLDER, RunFolder
from schemas import TABLES, conform
from schemas.drops import PASSING

INTERVAL_S = 60.0
"""Between two checkpoints of a unit; a unit that takes less writes none."""

CONTENT_KEY = "ovseg.checkpoint"


class DoneImages(NamedTuple):
    """Some images of a unit, done: their rows in the order of `image_ids`, their drops, and which they are."""

    rows: pa.Table
    drops: list[dict[str, Any]]
    image_ids: tuple[str, ...]


@dataclass
class Checkpoint:
    """What is done of one unit of a table, in files of a few images each; `key` tells one way of making it."""

    run: RunFolder
    table: str
    unit: int
    key: str

    def __post_init__(self) -> None:
        """Starts the clock."""
        self._saved_at = time.monotonic()

    @property
    def folder(self) -> str:
        """Where the files lie in the run."""
        return f"{UNFINISHED_FOLDER}/checkpoints/{self.table}-{self.unit:05d}-{self.key}"

    def load(self, image_ids: Collection[str]) -> list[DoneImages]:
        """What is done of these images, each once."""
        open_ids, done = set(image_ids), []
        for saved in self._saved():
            ids = tuple(image_id for image_id in saved.image_ids if image_id in open_ids)
            open_ids -= set(ids)
            if ids:
                done.append(only_images(saved, ids))
        return done

    def is_due(self) -> bool:
        """Whether so much time went by that what is done should be saved."""
        return time.monotonic() - self._saved_at >= INTERVAL_S

    def save(self, done: DoneImages) -> None:
        """Saves some images more, in a file of their own, but for those that another attempt may still make."""
        self._saved_at = time.monotonic()
        done = without_passing_drops(done)
        if not done.image_ids:
            return
        content = json.dumps({"image_ids": done.image_ids, "drops": done.drops})
        name = hashlib.sha256("\n".join(done.image_ids).encode()).hexdigest()[:16]
        self.run.write_part(f"{self.folder}/{name}.parquet", done.rows, TABLES[self.table], {CONTENT_KEY: content})

    def forget(self) -> None:
        """Removes all files, when the part stands."""
        self.run.remove_folder(self.folder)

    def _saved(self) -> Iterator[DoneImages]:
        for name in self.run.names(self.folder):
            try:
                data = self.run.read(f"{self.folder}/{name}")
            except FileNotFoundError:  # another worker finished the unit
                return
            rows = pq.read_table(io.BytesIO(data))
            content = json.loads(rows.schema.metadata[CONTENT_KEY.encode()])
            yield DoneImages(conform(rows, TABLES[self.table]), content["drops"], tuple(content["image_ids"]))


def only_images(done: DoneImages, image_ids: Collection[str]) -> DoneImages:
    """What belongs to some of the images."""
    rows = done.rows.filter(pc.is_in(done.rows["image_id"], pa.array(list(image_ids), pa.string())))
    kept = tuple(image_id for image_id in done.image_ids if image_id in image_ids)
    return DoneImages(rows, [row for row in done.drops if row["image_id"] in image_ids], kept)


def without_passing_drops(done: DoneImages) -> DoneImages:
    """What lasts: images that were dropped for a reason that can pass are not done, and are tried again."""
    passing = {row["image_id"] for row in done.drops if row["reason"] in PASSING}
    return only_images(done, {image_id for image_id in done.image_ids if image_id not in passing})


def in_order_of(image_ids: Sequence[str], tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of several tables in one piece, ordered by image; the order within an image stays.

    One chunk a column: the same rows then are the same bytes, however many pieces they came in.
    """
    rows = pa.concat_tables(tables)
    place = {image_id: index for index, image_id in enumerate(image_ids)}
    places = pa.array([place[image_id] for image_id in rows["image_id"].to_pylist()], pa.int64())
    return rows.take(pc.sort_indices(places)).combine_chunks()


def together(some: Sequence[DoneImages]) -> DoneImages:
    """Several as one."""
    image_ids = tuple(image_id for each in some for image_id in each.image_ids)
    rows = in_order_of(image_ids, [each.rows for each in some])
    return DoneImages(rows, [row for each in some for row in each.drops], image_ids)
