"""Caption tables, image folders and tar shards → caption rows; each format has a file in caption_formats.

Nothing is lost silently: a record becomes rows or a `BadRow`, which becomes a DROPS row. A bad row never stops
the reading; a file that cannot be read at all is a UserError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pipelines.caption_formats.coco_json import read_coco
from pipelines.caption_formats.delimited import read_csv, read_tsv
from pipelines.caption_formats.image_folder import read_folder
from pipelines.caption_formats.input_files import InputFile, list_inputs
from pipelines.caption_formats.jsonl import read_jsonl
from pipelines.caption_formats.parquet import read_parquet
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import BadRow, CaptionRow, RowError, shown
from pipelines.caption_formats.tar_shards import read_tar

__all__ = [
    "BadRow",
    "CaptionRow",
    "InputFile",
    "ReadOptions",
    "input_files",
    "read_rows",
    "read_shard",
]

READERS: dict[str, Callable[[InputFile, ReadOptions], Iterator[CaptionRow | BadRow]]] = {
    "coco": read_coco,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "folder": read_folder,
    "tar": read_tar,
}


def input_files(options: ReadOptions) -> list[InputFile]:
    """The files and folders that `captions` names, each once, sorted by URI.

    Raises:
        UserError: nothing matches, a format cannot be told, tar shards stand beside something else, or an option
            names columns of a format that has none.
    """
    return list_inputs(options)


def read_rows(files: Iterable[InputFile], options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """Every caption of the input, file by file, and every record that has none.

    Raises:
        UserError: a file cannot be read, or lacks a column.
    """
    for file in files:
        for row in READERS[file.captions_format](file, options):
            yield bounded(row, options.max_caption_chars)


def read_shard(shard: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """Every caption of one tar shard in its order; the rows of an image stand next to each other.

    Raises:
        UserError: it is no uncompressed tar file.
    """
    for row in read_tar(shard, options):
        yield bounded(row, options.max_caption_chars)


def bounded(row: CaptionRow | BadRow, most_chars: int) -> CaptionRow | BadRow:
    """The row, or why it is dropped when its caption has more than `most_chars` characters."""
    if isinstance(row, BadRow) or len(row.caption) <= most_chars:
        return row
    detail = f"wanted at most {most_chars} characters (--max-caption-chars), got {len(row.caption)}"
    return RowError("caption_too_long", f"{detail}: {shown(row.caption)}").row(f"{row.image_id}#{row.order}")
