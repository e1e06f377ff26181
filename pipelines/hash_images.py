"""`ovseg hash`: a hash list of a set's images, by which `--exclude-images` keeps them out of a run."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ovseg_model.fetch_options import FetchOptions, ImageError
from pipelines.caption_formats.input_files import IMAGE_EXTENSIONS, common_folder, list_folder
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.progress import show_progress
from pipelines.terminal import escaped
from pipelines.write_tables import open_run_folder, parquet_bytes
from schemas import UserError, conform_rows
from schemas.image_hashes import IMAGE_HASHES


@dataclass(frozen=True)
class HashOptions:
    """The list that is made."""

    name: str = option("", "what the set is called: drops that match it say so, as in ade20k-val")
    output: str = option("", "the hash list: a Parquet file, by its path or fsspec URL")


class HashedSet(NamedTuple):
    """IMAGE_HASHES rows of the images that could be read, and why the others could not, by file name."""

    rows: list[dict[str, Any]]
    unread: dict[str, ImageError]


def main(argv: Sequence[str]) -> int:
    """Hashes every image, writes the list and says what is in it; `argv` begins with the verb.

    Raises:
        UserError: an option is missing, there is no image, none can be read, or the list cannot be written.
    """
    parser = SentenceParser("ovseg hash", description=__doc__, allow_abbrev=False)
    parser.add_argument("images", nargs="*", metavar="FOLDER", help="folders of images or globs; paths or fsspec URLs")
    add_options(parser, HashOptions)
    add_options(parser, FetchOptions)
    namespace = parser.parse_args(argv[1:])
    options = read_options(namespace, HashOptions)
    check_options(namespace.images, options)
    folder, name = posixpath.split(options.output)
    place = open_run_folder(folder or ".")
    hashed = hash_images(list_images(namespace.images), options.name, read_options(namespace, FetchOptions))
    if not hashed.rows:
        raise UserError("\n".join([f"--output {options.output}: no image could be read", *unread_lines(hashed.unread)]))
    place.write(name, parquet_bytes(conform_rows(hashed.rows, IMAGE_HASHES), IMAGE_HASHES, {}))
    print(f"{len(hashed.rows):,} images of {escaped(options.name)} in {escaped(options.output)}")
    print("\n".join(map(escaped, unread_lines(hashed.unread))), end="\n" if hashed.unread else "")
    return 0


def check_options(patterns: Sequence[str], options: HashOptions) -> None:
    """Refuses a list without images, name or place.

    Raises:
        UserError: naming what is missing.
    """
    if not patterns:
        raise UserError("no folder of images is named; wanted ovseg hash FOLDER --name SET --output SET.parquet")
    if not options.name:
        raise UserError("--name is missing; say what the set is called, as in ade20k-val")
    if not posixpath.basename(options.output).endswith(".parquet"):
        raise UserError(f"--output: wanted a file that ends in .parquet, got {options.output or 'nothing'}")


def list_images(patterns: Sequence[str]) -> list[str]:
    """The URIs of all images below folders and of those that globs name, each once, sorted.

    Images are told by their names; hidden files and folders are left out.

    Raises:
        UserError: one of the patterns names no image, or no file system serves it.
    """
    return sorted({uri for pattern in patterns for uri in _images_of(pattern)})


def hash_images(uris: Sequence[str], set_name: str, fetch: FetchOptions) -> HashedSet:
    """The hashes of images, in the order of their URIs; files are named by their paths below the common folder."""
    from ovseg_model.image_hash import perceptual_hash
    from ovseg_model.images import read_images

    root, hashed = common_folder(list(uris)), HashedSet([], {})
    results = show_progress(read_images(uris, fetch), "hashing", "images", len(uris))
    for uri, result in zip(uris, results, strict=True):
        file_name = uri[len(root) :].lstrip("/")
        if isinstance(result, ImageError):
            hashed.unread[file_name] = result
        else:
            phash = perceptual_hash(result.pixels)
            hashed.rows.append(
                {"set_name": set_name, "file_name": file_name, "image_sha256": result.sha256, "image_phash": phash}
            )
    return hashed


def unread_lines(unread: dict[str, ImageError]) -> list[str]:
    """A line a reason why images could not be read: how many, and the first of them."""
    counts = Counter(error.reason for error in unread.values())
    first = {error.reason: (name, error.detail) for name, error in reversed(unread.items())}
    return [
        f"{count:,} not in the list, {reason}; the first is {first[reason][0]}: {first[reason][1]}"
        for reason, count in sorted(counts.items())
    ]


def _images_of(pattern: str) -> list[str]:
    try:
        file_system, path = fsspec.core.url_to_fs(pattern)
        matches = _matches(file_system, path)
        images = [file for match in matches for file in _images_at(file_system, match)]
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"{pattern}: cannot look there ({error}); wanted a path or an fsspec URL") from error
    if not images:
        endings = ", ".join(IMAGE_EXTENSIONS)
        raise UserError(f"{pattern}: wanted a folder or a glob of images ({endings}), got none")
    if isinstance(file_system, LocalFileSystem):
        return [os.path.abspath(image) for image in images]
    return [file_system.unstrip_protocol(image) for image in images]


def _matches(file_system: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if file_system.exists(path):
        return [path]
    return file_system.glob(path) if re.search(r"[*?\[]", path) else []


def _images_at(file_system: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """The path itself where it is an image, or the images below it where it is a folder."""
    if file_system.isdir(path):
        below = list_folder(file_system.unstrip_protocol(path))
        yield from (posixpath.join(path, name) for name in below if _is_image(name))
    elif _is_image(path):
        yield path


def _is_image(path: str) -> bool:
    return posixpath.splitext(path)[1][1:].lower() in IMAGE_EXTENSIONS
