"""The files of an input: paths, globs and URLs resolved to a sorted list, opened as text lines or bytes."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import lzma
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.caption_formats.read_options import FORMATS, UNUSED_OPTIONS, ReadOptions
from schemas.errors import UserError

EXTENSIONS = {
    "json": "coco",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "pq": "parquet",
    "tar": "tar",
}
"""The format by a file name's extension, below that of compression."""

COMPRESSIONS = ("gz", "bz2", "xz", "zst")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "avif", "bmp", "gif", "tif", "tiff")
"""What counts as an image in folders and shards; of several in one sample the first of this list is taken."""

CHANGE_KEYS = ("mtime", "LastModified", "last_modified", "updated", "modified", "ETag", "etag", "created")
"""Where file systems say that a file changed."""

Info = dict[str, Any]


class InputFile(NamedTuple):
    """One file of the input, or one folder of images.

    `modified` tells one version from another: a time, a tag, or for a folder a hash over its listing. `name` is
    the path below the common folder of all inputs, without `.tar`.
    """

    uri: str
    size_bytes: int | None
    modified: str
    captions_format: str
    name: str


class Found(NamedTuple):
    """A file or folder as its file system lists it."""

    uri: str
    info: Info


def list_inputs(options: ReadOptions) -> list[InputFile]:
    """The input's files and folders, each once, sorted by URI.

    Raises:
        UserError: nothing matches, a format cannot be told, tar shards stand beside something else, or an option
            names columns of a format that has none.
    """
    if options.captions_format not in ("auto", *FORMATS):
        raise UserError(f"--captions-format: wanted auto or one of {', '.join(FORMATS)}, got {options.captions_format}")
    found = {each.uri: each for pattern in options.captions for each in find(pattern, options.captions_format)}
    ordered = [found[uri] for uri in sorted(found)]
    root = common_folder([each.uri for each in ordered])
    files = [_input_file(each, root, options) for each in ordered]
    _check_formats({file.captions_format: file.uri for file in files}, options)
    return files


def find(pattern: str, captions_format: str) -> list[Found]:
    """The files that a path, glob or URL names; a directory stands for its shards, or is a folder of images.

    Raises:
        UserError: nothing is there, or no file system serves the URL.
    """
    try:
        file_system, path = fsspec.core.url_to_fs(pattern)
        matches = _matches(file_system, path, pattern)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"--captions {pattern}: cannot look there ({error}); wanted a path or an fsspec URL") from error
    found = [each for match in matches for each in _files_of(file_system, match, captions_format)]
    if not found:
        raise UserError(f"--captions {pattern}: nothing matches; wanted an existing file, folder or glob")
    return found


def _matches(file_system: fsspec.AbstractFileSystem, path: str, pattern: str) -> list[Found]:
    try:
        return [Found(_uri(file_system, path, pattern), file_system.info(path))]
    except FileNotFoundError:
        # In an http(s) URL a question mark begins the query, and servers do not list.
        if "::" in pattern or not re.search(r"[*?\[]", path) or "http" in _protocols(file_system):
            return []
    infos = file_system.glob(path, detail=True)
    return [Found(_uri(file_system, path, pattern), info) for path, info in infos.items()]


def _files_of(file_system: fsspec.AbstractFileSystem, match: Found, captions_format: str) -> Iterator[Found]:
    """The match itself, or for a directory its files of the format; a folder of images is one input."""
    if match.info["type"] != "directory":
        yield match
        return
    listed = [info for info in file_system.ls(match.info["name"], detail=True) if info["type"] == "file"]
    wanted = "tar" if captions_format == "auto" else captions_format
    files = [info for info in listed if _format_of_name(info["name"]) == wanted]
    if files or captions_format not in ("auto", "folder"):
        for info in files:
            yield Found(_uri(file_system, info["name"], match.uri), info)
    else:
        yield match


def _uri(file_system: fsspec.AbstractFileSystem, path: str, given: str) -> str:
    """A local file's absolute path, a URL for others; a chained URL as it was given."""
    if "::" in given:
        return given
    return path if isinstance(file_system, LocalFileSystem) else file_system.unstrip_protocol(path)


def _protocols(file_system: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = file_system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _input_file(found: Found, root: str, options: ReadOptions) -> InputFile:
    name = found.uri[len(root) :].lstrip("/")
    if found.info["type"] == "directory":
        size_bytes, modified = folder_stamp(found.uri)
        return InputFile(found.uri, size_bytes, modified, "folder", name)
    modified = next((str(found.info[key]) for key in CHANGE_KEYS if found.info.get(key)), "")
    captions_format = _format_of(found.uri, options)
    return InputFile(found.uri, found.info.get("size"), modified, captions_format, name.removesuffix(".tar"))


def _format_of(uri: str, options: ReadOptions) -> str:
    by_name = _format_of_name(uri)
    if by_name == "tar" and uri.endswith((*COMPRESSIONS, "tgz")):
        raise UserError(f"{uri} is a compressed tar, in which images cannot be found by offset; unpack it to .tar")
    if options.captions_format == "folder":
        raise UserError(f"{uri} is a file; --captions-format folder wants a folder of images with .txt beside them")
    if options.captions_format != "auto":
        return options.captions_format
    if by_name is None:
        known = ", ".join(f".{extension}" for extension in EXTENSIONS)
        raise UserError(f"{uri}: the name does not tell the format; wanted {known}, or name it by --captions-format")
    return by_name


def _format_of_name(uri: str) -> str | None:
    base = posixpath.basename(_path_of(uri)).lower()
    if base.endswith(".tgz"):
        return "tar"
    stem, _, extension = base.rpartition(".")
    if extension in COMPRESSIONS:
        extension = stem.rpartition(".")[2]
    return EXTENSIONS.get(extension)


def _path_of(uri: str) -> str:
    """The path of the first link of a chain, without an http(s) URL's query."""
    uri = uri.split("::", 1)[0]
    return urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri


def _check_formats(uri_of_format: dict[str, str], options: ReadOptions) -> None:
    if "tar" in uri_of_format and len(uri_of_format) > 1:
        others = ", ".join(uri for name, uri in uri_of_format.items() if name != "tar")
        raise UserError(
            f"--captions: tar shards and {others} cannot be one run; name the shards alone, such as with *.tar"
        )
    for captions_format, uri in uri_of_format.items():
        given = [name for name in UNUSED_OPTIONS.get(captions_format, ()) if getattr(options, name)]
        if given:
            flag = f"--{given[0].replace('_', '-')}"
            raise UserError(f"{flag}: {uri} is read as {captions_format}, which has no use for it; leave it out")


def common_folder(uris: list[str]) -> str:
    """The deepest folder that holds all files, without a slash at the end."""
    folders = [uri.rsplit("/", 1)[0].split("/") for uri in uris]
    shared = min(folders, key=len, default=[])
    while any(folder[: len(shared)] != shared for folder in folders):
        shared = shared[:-1]
    return "/".join(shared)


def list_folder(uri: str) -> dict[str, Info]:
    """Every file below a folder by its path relative to it, sorted; hidden files and folders are left out."""
    file_system, root = fsspec.core.url_to_fs(uri)
    infos = file_system.find(root, detail=True)
    start = len(root.rstrip("/")) + 1
    relative = {path[start:]: info for path, info in infos.items()}
    return {path: relative[path] for path in sorted(relative) if not path.startswith(".") and "/." not in path}


def folder_stamp(uri: str) -> tuple[int, str]:
    """A folder's bytes in all, and a hash over the names, sizes and times of its files."""
    digest, size_bytes = hashlib.sha256(), 0
    for path, info in list_folder(uri).items():
        modified = next((info[key] for key in CHANGE_KEYS if info.get(key)), "")
        digest.update(f"{path}\0{info.get('size')}\0{modified}\n".encode("utf-8", "surrogateescape"))
        size_bytes += info.get("size") or 0
    return size_bytes, digest.hexdigest()


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading, decompressed by its extension, with a large buffer.

    Raises:
        UserError: it cannot be opened, or breaks off while it is read.
    """
    try:
        opened = fsspec.open(uri, "rb", compression="infer")
    except (ValueError, ImportError) as error:
        raise UserError(f"--captions {uri}: cannot be opened ({error})") from error
    try:
        with opened as file:
            yield io.BufferedReader(file, 1 << 20)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"--captions {uri}: cannot be read to its end ({error}); wanted a whole file") from error


def lines_of(uri: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file with their numbers from 1, without a byte order mark."""
    with open_input(uri) as file:
        for number, line in enumerate(file, 1):
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
