"""Where PAIRS lie: from what a user names (a run, its pairs folder, a file, a glob, an fsspec URL) to checked files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from schemas import PAIRS, SchemaError, UserError
from schemas.run import check_run

RUN_FILE = "run.json"
SUCCESS_FILE = "_SUCCESS"
UNITS_FILE = "units.json"
"""What `ovseg mine` writes: the manifest, its last file of all, and its first."""


def find_pair_files(url: str, option: str = "--pairs") -> list[str]:
    """The Parquet files that a path or fsspec URL names, sorted by name.

    In a run folder, or its pairs folder, those are the parts that run.json lists: a part that is left over from another
    run of the same command does not count, and neither does it when a glob finds it. Elsewhere it is every .parquet
    file below the folder but hidden ones, whose name (or folder's name) begins with a dot. A file that is named in full
    is taken as it is.

    Raises:
        UserError: there is nothing there, the run is not finished or has no PAIRS, or a listed part is not as listed.
    """
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{option} {url}: cannot open this place ({error}); wanted a path or an fsspec URL") from error
    files = list(_matching_files(file_system, path, f"{option} {url}"))
    if not files:
        raise UserError(f"{option} {url}: no Parquet file is there; wanted a run, its pairs folder, a file or a glob")
    return [_address(file_system, name) for name in sorted(set(files))]


def _matching_files(file_system: fsspec.AbstractFileSystem, path: str, place: str) -> Iterator[str]:
    path = path.rstrip("/") or path
    if not re.search(r"[*?\[]", path):
        yield from [path] if file_system.isfile(path) else _files_of_folder(file_system, path, place)
        return
    # Where the pattern begins: a dot in what the user spelled out hides nothing.
    fixed = len(re.split(r"[*?\[]", path, maxsplit=1)[0].rsplit("/", 1)[0])
    listed: dict[str, list[str] | None] = {}
    for name in sorted(file_system.glob(path)):
        if not file_system.isfile(name):
            yield from _files_of_folder(file_system, name, place)
        elif not _is_hidden(name[fixed:]):
            folder = _parent(name)
            if folder not in listed:
                listed[folder] = _listed_parts(file_system, _parent(folder), place) if _is_pairs(folder) else None
            if listed[folder] is None or name in listed[folder]:
                yield name


def _files_of_folder(file_system: fsspec.AbstractFileSystem, folder: str, place: str) -> list[str]:
    if not file_system.isdir(folder):
        raise UserError(f"{place}: there is no such file or folder; wanted a run, its pairs folder, a file or a glob")
    runs = [folder, _parent(folder)] if _is_pairs(folder) else [folder]
    for run in runs:
        parts = _listed_parts(file_system, run, place)
        if parts is not None:
            return parts
    found = file_system.find(folder)
    return [name for name in found if name.endswith(".parquet") and not _is_hidden(name[len(folder) :])]


def _listed_parts(file_system: fsspec.AbstractFileSystem, run: str, place: str) -> list[str] | None:
    """The parts of PAIRS that a run's manifest lists, or None where there is no run."""
    has_manifest = file_system.exists(f"{run}/{RUN_FILE}")
    if not has_manifest and not file_system.exists(f"{run}/{UNITS_FILE}"):
        return None
    if not has_manifest or not file_system.exists(f"{run}/{SUCCESS_FILE}"):
        raise UserError(f"{place}: the run {run} is not finished; give the command that made it once more")
    table = _read_manifest(file_system, run, place)["tables"].get(PAIRS.name)
    if table is None:
        raise UserError(f"{place}: the run {run} has no PAIRS; make them with ovseg match --output {run}")
    return [_checked_part(file_system, run, part, place) for part in table["parts"]]


def _read_manifest(file_system: fsspec.AbstractFileSystem, run: str, place: str) -> dict[str, Any]:
    try:
        return check_run(json.loads(file_system.cat_file(f"{run}/{RUN_FILE}")))
    except (ValueError, KeyError, AttributeError, TypeError, SchemaError) as error:
        raise UserError(
            f"{place}: {run}/{RUN_FILE} is not one of this release ({error}); mine the run again"
        ) from error


def _checked_part(file_system: fsspec.AbstractFileSystem, run: str, part: dict[str, Any], place: str) -> str:
    name = f"{run}/{part['path']}"
    size_bytes = file_system.size(name) if file_system.isfile(name) else None
    if size_bytes != part["bytes"]:
        got = "it is missing" if size_bytes is None else f"it has {size_bytes}"
        wanted = f"{RUN_FILE} lists {part['path']} with {part['bytes']} bytes"
        raise UserError(f"{place}: {wanted}, but {got}; give the command that made the run once more")
    return name


def _is_pairs(folder: str) -> bool:
    return folder.rsplit("/", 1)[-1] == PAIRS.name


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/") if part not in (".", ".."))


def _parent(path: str) -> str:
    return path.rsplit("/", 1)[0]


def _address(file_system: fsspec.AbstractFileSystem, name: str) -> str:
    return name if isinstance(file_system, LocalFileSystem) else file_system.unstrip_protocol(name)


def open_pair_file(url: str) -> pq.ParquetFile:
    """One file of PAIRS, by its path or URL, checked against the table's name, version and column types.

    Raises:
        UserError: it is not there, is no Parquet file, holds another table, or PAIRS of another version.
    """
    file_system, path = fsspec.core.url_to_fs(url)
    try:
        file = _open_parquet(file_system, path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{url}: is no Parquet file, or is cut short ({error}); wanted a part of PAIRS") from error
    except OSError as error:
        raise UserError(f"{url}: cannot be read ({error.strerror or error}); is the run being made anew?") from error
    _check_footer(url, file.schema_arrow)
    return file


def _open_parquet(file_system: fsspec.AbstractFileSystem, path: str) -> pq.ParquetFile:
    if isinstance(file_system, LocalFileSystem):
        return pq.ParquetFile(path)
    # By column chunk, those that lie side by side at once; read-ahead would fetch the crops between them.
    return pq.ParquetFile(file_system.open(path, "rb", cache_type="none"), pre_buffer=True)


def _check_footer(url: str, schema: pa.Schema) -> None:
    metadata = schema.metadata or {}
    name, version = (metadata.get(f"ovseg.{key}".encode(), b"").decode() for key in ("table", "table_version"))
    if name != PAIRS.name:
        got = f"the table {name}" if name else "a file whose footer names no table"
        raise UserError(f"{url}: wanted PAIRS as ovseg writes it, got {got}; give the pairs folder of a run")
    if version != str(PAIRS.version):
        raise UserError(
            f"{url}: wanted version {PAIRS.version} of PAIRS, got version {version or 'none'}; mine the run again with "
            "this release, or train with the release that made it"
        )
    for field in PAIRS.schema:
        got = schema.field(field.name).type if field.name in schema.names else "no such column"
        if got != field.type:
            raise UserError(f"{url}: PAIRS, column {field.name}: wanted {field.type}, got {got}; mine the run again")
