"""The rows that every reader yields, and the checks on their values that every reader shares."""

from __future__ import annotations

from typing import Any, NamedTuple

DETAIL_CHARS = 120


class CaptionRow(NamedTuple):
    """One caption of one image; `order` is its place among the image's captions where the input gives one, else 0."""

    image_id: str
    image_uri: str | None
    order: int
    caption: str
    source_url: str | None
    licence: str | None
    safety: str | None = None


class BadRow(NamedTuple):
    """A record that could not be read: its key (file:row, or the image), one of schemas.drops.READING, and words."""

    key: str
    reason: str
    detail: str


class RowError(Exception):
    """Why a record is bad: a reason of schemas.drops.READING and what was wanted and got."""

    def __init__(self, reason: str, detail: str) -> None:
        """Takes the reason and its words."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def row(self, key: str) -> BadRow:
        """The bad row of a record by its key."""
        return BadRow(printable(key), self.reason, self.detail)


def shown(value: Any) -> str:
    """A value for messages: short, and text in any case."""
    text = repr(value)
    return text if len(text) <= DETAIL_CHARS else text[:DETAIL_CHARS] + "…"


def printable(text: str) -> str:
    """The text with escapes for what is not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def text_of(value: Any, column: str | None) -> str:
    """A text, or a whole number as text; raises RowError for anything else and for text that is not UTF-8."""
    if type(value) is str:
        if not value.isascii():
            require_utf8(value, column)
        return value
    if type(value) is int:
        return str(value)
    raise RowError("bad_column_type", f"{column}: wanted text, got {shown(value)}")


def optional_text(value: Any, column: str | None) -> str | None:
    """As `text_of`; None for null and for an empty text."""
    if value is None or value == "":
        return None
    return value if type(value) is str and value.isascii() else text_of(value, column)


def optional_flag(value: Any, column: str | None) -> str | None:
    """As `optional_text`, for what says whether an image is safe: "true", "false" or a number as text too."""
    if type(value) is bool:
        return str(value).lower()
    return repr(value) if type(value) is float else optional_text(value, column)


def require_utf8(text: str, column: str | None) -> None:
    """Refuses text that no UTF-8 file can hold; raises RowError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("not_utf8", f"{column}: wanted UTF-8, got {shown(text)}") from error


def caption_of(value: Any, column: str | None) -> str:
    """One caption without surrounding white space; raises RowError when there is none."""
    if type(value) is str:
        if not value.isascii():
            require_utf8(value, column)
        caption = value.strip()
        if caption:
            return caption
        raise RowError("empty_caption", f"{column}: wanted a caption, got {shown(value)}")
    if value is None:
        raise RowError("missing_caption", f"{column}: wanted a caption, got none")
    raise RowError("bad_column_type", f"{column}: wanted text or a list of texts, got {shown(value)}")


def rows_of_captions(
    key: str, image_id: str, image_uri: str | None, captions: list[Any], column: str, *about: str | None
) -> list[CaptionRow | BadRow]:
    """One row for each of an image's captions, numbered from 0; `about` is source_url, licence, safety."""
    rows: list[CaptionRow | BadRow] = []
    for order, value in enumerate(captions):
        try:
            rows.append(CaptionRow(image_id, image_uri, order, caption_of(value, column), *about))
        except RowError as problem:
            rows.append(problem.row(f"{key}#{order}"))
    return rows
