"""What the user says about the input."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.options import option

FORMATS = ("coco", "jsonl", "csv", "tsv", "parquet", "folder", "tar")

_PLACES = ("image_column", "image_id_column", "columns")
_ABOUT = ("caption_column", "source_url_column", "licence_column", "safety_column")
UNUSED_OPTIONS = {
    "coco": _PLACES + _ABOUT,
    "folder": _PLACES + _ABOUT,
    "tar": _PLACES,
    "jsonl": ("columns",),
    "parquet": ("columns",),
}
"""Options that a format would ignore, which a user should hear of."""


@dataclass(frozen=True)
class ReadOptions:
    """Where captions and images are, and what their columns are called."""

    captions: tuple[str, ...] = field(
        metadata={"help": "caption tables, image folders or tar shards: paths, globs or fsspec URLs"}
    )
    images: str | None = option(None, "folder or URL prefix that relative image paths start from")
    captions_format: str = option("auto", "format of --captions; auto goes by the names", choices=("auto", *FORMATS))
    image_column: str | None = option(None, "column of the image's path or URL (image, file_name, url … are found)")
    caption_column: str | None = option(None, "column of the caption or list of captions (caption, text … are found)")
    image_id_column: str | None = option(None, "column of the image's key (image_id is found; else the image's path)")
    source_url_column: str | None = option(None, "column of where the image was found (source_url, url … are found)")
    licence_column: str | None = option(None, "column of the image's licence (licence, license are found)")
    safety_column: str | None = option(None, "column of the image's safety flag (safety, nsfw are found)")
    # PAIRS repeats the caption in every row: 100,000 characters of distinct words would make 1.4 GB of one caption.
    max_caption_chars: int = option(10_000, "characters of one caption; longer ones are dropped")
    columns: tuple[str, ...] = option((), "column names of a CSV or TSV without a header, such as caption,url")
