"""Which column is what, and from a record's values to its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.caption_formats.image_places import ImageBase, normal_path
from pipelines.caption_formats.input_files import InputFile
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import (
    BadRow,
    CaptionRow,
    RowError,
    caption_of,
    optional_flag,
    optional_text,
    rows_of_captions,
)
from pipelines.terminal import shortened
from schemas.errors import UserError

CANDIDATES = {
    "image": (
        *("image", "image_uri", "image_path", "file_name", "filename", "filepath", "file_path", "path"),
        *("image_url", "coco_url", "url"),
    ),
    "caption": ("caption", "captions", "text", "sentence", "alt_text"),
    "image_id": ("image_id",),
    "source_url": ("source_url", "url", "image_url", "coco_url", "flickr_url"),
    "licence": ("licence", "license", "license_name", "license_url"),
    "safety": ("safety", "nsfw"),
}
"""Names that are looked for, best first, without regard to case, where no option names the column."""


MOST_LISTED_CHARS = 500
"""A file that is no table may have a first line of any length."""


class Columns(NamedTuple):
    """The names of the columns that are read; None where the table has none."""

    image: str | None
    caption: str
    image_id: str | None
    source_url: str | None
    licence: str | None
    safety: str | None


def choose_columns(place: str, present: Sequence[str], options: ReadOptions, note: str = "") -> Columns:
    """The columns to read among those present; `note` ends the message when there is none.

    Raises:
        UserError: a named column is missing, there is no caption, or neither image nor image_id, or a column that
            is to be read is there twice.
    """
    image = _find("image", place, present, options)
    caption = _find("caption", place, present, options)
    image_id = _find("image_id", place, present, options)
    if caption is None or (image is None and image_id is None):
        raise _no_column("caption" if caption is None else "image", place, present, note)
    source_url = _find("source_url", place, [name for name in present if name != image], options)
    licence, safety = (_find(role, place, present, options) for role in ("licence", "safety"))
    columns = Columns(image, caption, image_id, source_url, licence, safety)
    _require_once(place, columns, present)
    return columns


def _require_once(place: str, columns: Columns, present: Sequence[str]) -> None:
    for role, name in columns._asdict().items():
        if name is not None and present.count(name) > 1:
            raise UserError(
                f"{place}: wanted one column {name}, got {present.count(name)}; rename one, or name another by "
                f"--{role.replace('_', '-')}-column"
            )


def _find(role: str, place: str, present: Sequence[str], options: ReadOptions) -> str | None:
    named = getattr(options, f"{role}_column")
    if named is not None and named not in present:
        flag = f"--{role.replace('_', '-')}-column"
        raise UserError(f"{place}: wanted a column {named} ({flag}), got {_listed(present)}")
    by_lower_name = {name.lower(): name for name in reversed(present)}
    return named or next((by_lower_name[name] for name in CANDIDATES[role] if name in by_lower_name), None)


def _no_column(role: str, place: str, present: Sequence[str], note: str) -> UserError:
    return UserError(
        f"{place}: wanted a column for the {role} ({', '.join(CANDIDATES[role])}), got {_listed(present)}{note}; "
        f"name it by --{role}-column"
    )


def _listed(present: Sequence[str]) -> str:
    return shortened(", ".join(present), MOST_LISTED_CHARS) or "none"


class RecordReader:
    """Makes the rows of one table's records from the values of its columns."""

    def __init__(self, file: InputFile, columns: Columns, options: ReadOptions) -> None:
        """Takes the table, its columns and what relative image paths start from."""
        self._place = file.uri
        self._columns = columns
        self._base = ImageBase(options.images or file.uri.rsplit("/", 1)[0] + "/")

    def rows(
        self, position: int, image: Any, caption: Any, image_id: Any, source_url: Any, licence: Any, safety: Any
    ) -> list[CaptionRow | BadRow]:
        """The rows of one record; `position` is its line or row, which its key names when it is bad."""
        columns = self._columns
        try:
            image_id, image_uri = self._identify(image, image_id)
            about = (
                optional_text(source_url, columns.source_url),
                optional_text(licence, columns.licence),
                optional_flag(safety, columns.safety),
            )
            if type(caption) is not list:
                return [CaptionRow(image_id, image_uri, 0, caption_of(caption, columns.caption), *about)]
            if not caption:
                raise RowError("missing_caption", f"{columns.caption}: wanted captions, got an empty list")
        except RowError as problem:
            return [self.bad(position, problem)]
        key = self._key(position)
        return rows_of_captions(key, image_id, image_uri, caption, columns.caption, *about)

    def bad(self, position: int, problem: RowError) -> BadRow:
        """The bad row of the record at a position."""
        return problem.row(self._key(position))

    def _key(self, position: int) -> str:
        return f"{self._place}:{position}"

    def _identify(self, image: Any, image_id: Any) -> tuple[str, str | None]:
        """image_id and image_uri: the key is the image's path where the table has no key of its own."""
        path = optional_text(image, self._columns.image)
        key = optional_text(image_id, self._columns.image_id)
        if key is None and (path is None or self._columns.image_id):
            name = self._columns.image_id or self._columns.image
            raise RowError("missing_image", f"{name}: wanted the image's key, path or URL, got none")
        if path is None:
            return key, None
        path = normal_path(path)
        return key or path, self._base.join(path)
