"""`--format datasets`: PAIRS as Parquet files that `datasets.load_dataset(FOLDER)` opens.

The card (card.py) says that crops are images. The columns are PAIRS' own, and so is the footer: `ovseg finetune
--pairs FOLDER/data` reads the files too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from ovseg_model.fetch_options import FetchOptions
from pipelines.exports.croissant import PairFile, write_croissant
from pipelines.exports.export_options import ExportOptions
from pipelines.exports.public_names import public_uris
from pipelines.exports.region_pictures import crop_of, make_of_regions
from pipelines.exports.selected_pairs import ROWS_PER_PICTURE, ROWS_PER_READ, SelectedPairs
from pipelines.write_tables import ROWS_PER_GROUP, stamp
from schemas import PAIRS

DATA_FOLDER = "data"

CROP_COLUMN = "crop_png"


def write_pairs(pairs: SelectedPairs, folder: str, options: ExportOptions, fetch: FetchOptions) -> None:
    """Writes data/train-00000-of-000NN.parquet and croissant.json; a file has `pairs_a_file` rows, the last the rest.

    Raises:
        UserError: a part of the run cannot be read.
    """
    os.makedirs(f"{folder}/{DATA_FOLDER}")
    rows = exported_rows(pairs, options, fetch)
    names = list(write_files(rows, f"{folder}/{DATA_FOLDER}", options.pairs_a_file()))
    files = []
    for number, name in enumerate(names):
        final = f"{DATA_FOLDER}/train-{number:05d}-of-{len(names):05d}.parquet"
        os.replace(name, f"{folder}/{final}")
        files.append(file_facts(folder, final))
    write_croissant(files, folder, pairs.tally)


def exported_rows(pairs: SelectedPairs, options: ExportOptions, fetch: FetchOptions) -> Iterator[pa.Table]:
    """The rows as the world may see them, with crops cut now where they are asked for and none is stored."""
    for batch in pairs.batches(ROWS_PER_PICTURE if options.crops else ROWS_PER_READ):
        rows = with_crops(pairs, batch, fetch) if options.crops else batch
        if not options.crops:
            pairs.keep(rows)
        yield with_public_uris(rows) if options.uris == "public" else rows


def with_crops(pairs: SelectedPairs, batch: pa.Table, fetch: FetchOptions) -> pa.Table:
    """The rows whose pixels can be had, each with its crop."""
    rows = batch.to_pylist()
    made = make_of_regions(rows, fetch, crop_of)
    crops = [crop if isinstance(crop, bytes) else row[CROP_COLUMN] for crop, row in zip(made, rows, strict=True)]
    at = batch.column_names.index(CROP_COLUMN)
    filled = batch.set_column(at, batch.schema.field(CROP_COLUMN), pa.array(crops, pa.binary()))
    return pairs.keep_readable(filled, made)


def with_public_uris(rows: pa.Table) -> pa.Table:
    """The rows, image_uri and source_url as `public_uri` has them."""
    for name in ("image_uri", "source_url"):
        at = rows.column_names.index(name)
        rows = rows.set_column(at, rows.schema.field(name), public_uris(rows[name]))
    return rows


def regrouped(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows each, the last of what is left."""
    waiting: list[pa.Table] = []
    for each in tables:
        waiting.append(each)
        while sum(map(len, waiting)) >= rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, rows)
            waiting = [joined.slice(rows)]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting)


def write_files(tables: Iterator[pa.Table], folder: str, most_rows: int) -> Iterator[str]:
    """Writes rows into hidden files of at most `most_rows` rows; yields their paths."""
    queue = regrouped(tables, min(most_rows, ROWS_PER_GROUP["pairs"]))
    group, number = next(queue, None), 0
    while group is not None:
        name, room = f"{folder}/.{number:05d}.parquet", most_rows
        with pq.ParquetWriter(name, PAIRS.schema, compression="zstd", compression_level=3) as writer:
            while group is not None and room:
                now, later = group.slice(0, room), group.slice(room)
                writer.write_table(pa.Table.from_arrays(now.combine_chunks().columns, schema=PAIRS.schema))
                room -= len(now)
                group = later if len(later) else next(queue, None)
        yield name
        number += 1


def file_facts(folder: str, name: str) -> PairFile:
    """Name, size and sha256 of a written file."""
    with open(f"{folder}/{name}", "rb") as file:
        facts = stamp(file.read())
    return PairFile(name, facts.size_bytes, facts.sha256)
