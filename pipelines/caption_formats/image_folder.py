"""A folder of images with their captions beside them: cat.jpg and cat.txt, one caption a line."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator

import fsspec

from pipelines.caption_formats.image_places import ImageBase
from pipelines.caption_formats.input_files import IMAGE_EXTENSIONS, InputFile, list_folder
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import BadRow, CaptionRow, RowError, require_utf8, rows_of_captions
from schemas.errors import UserError

TEXTS_AT_ONCE = 256
"""Object stores answer many small reads at once."""


def read_folder(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The captions of every image below a folder, sorted by path; a .txt without an image is a bad row.

    Raises:
        UserError: there is no image.
    """
    images, texts, repeated, other_texts = sort_files(list(list_folder(file.uri)))
    if not images:
        raise UserError(
            f"--captions {file.uri}: wanted a folder of images with .txt beside them, got no image "
            f"({', '.join(IMAGE_EXTENSIONS)}); name tables by a glob such as {file.uri}/*.parquet"
        )
    for path in repeated:
        yield RowError("duplicate_image", f"wanted one image of this name, {path} is another").row(path)
    for path in other_texts:
        yield RowError("missing_image", "wanted an image of its own; another .txt of this name has it").row(path)
    for stem in sorted(texts.keys() - images.keys()):
        yield RowError("missing_image", "wanted an image beside it").row(texts[stem])
    for stem in sorted(images.keys() - texts.keys()):
        yield RowError("no_caption", f"wanted {stem}.txt beside {images[stem]}").row(stem)
    yield from _captions(file.uri, images, {stem: texts[stem] for stem in sorted(images.keys() & texts.keys())})


def sort_files(paths: list[str]) -> tuple[dict[str, str], dict[str, str], list[str], list[str]]:
    """Images and .txt files by their path without extension, then images and .txt files whose name another one has."""
    images: dict[str, str] = {}
    texts: dict[str, str] = {}
    for path in paths:
        stem, extension = posixpath.splitext(path)
        if extension.lower() == ".txt":
            texts.setdefault(stem, path)
        elif extension[1:].lower() in IMAGE_EXTENSIONS:
            images.setdefault(stem, path)
    taken = {*images.values(), *texts.values()}
    rest = [path for path in paths if path not in taken]
    more_images = [path for path in rest if posixpath.splitext(path)[1][1:].lower() in IMAGE_EXTENSIONS]
    return images, texts, more_images, [path for path in rest if posixpath.splitext(path)[1].lower() == ".txt"]


def _captions(base: str, images: dict[str, str], texts: dict[str, str]) -> Iterator[CaptionRow | BadRow]:
    file_system, root = fsspec.core.url_to_fs(base)
    places_of_images, stems = ImageBase(base), iter(texts)
    while some := list(itertools.islice(stems, TEXTS_AT_ONCE)):
        places = {stem: posixpath.join(root, texts[stem]) for stem in some}
        contents = file_system.cat(list(places.values()), on_error="return")
        for stem in some:
            yield from _rows(stem, places_of_images.join(images[stem]), contents[places[stem]])


def _rows(stem: str, image_uri: str, content: bytes | Exception) -> list[CaptionRow | BadRow]:
    try:
        require_utf8(stem, "file name")
        captions = captions_of_text(content)
    except RowError as problem:
        return [problem.row(stem)]
    return rows_of_captions(stem, stem, image_uri, captions, ".txt", None, None)


def captions_of_text(content: bytes | Exception) -> list[str]:
    """The captions of a .txt, one a line, blank lines left out; raises RowError when there is none."""
    if isinstance(content, Exception):
        raise RowError("missing_caption", f".txt: cannot be read ({type(content).__name__})")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(
            "not_utf8", f".txt: wanted UTF-8, got byte {content[error.start]:#04x} at {error.start}"
        ) from error
    captions = [line for line in text.splitlines() if line.strip()]
    if not captions:
        raise RowError("empty_caption", ".txt: wanted a caption, got an empty file")
    return captions
