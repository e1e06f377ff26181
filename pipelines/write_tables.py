"""A run directory on any fsspec path, in which every file is whole or absent."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from schemas import TABLES, UserError, conform
from schemas.table import Table

ROWS_PER_GROUP = {"pairs": 200, "masks": 2000}
"""Row group size by table; pairs may carry crops, and 50 to 200 such rows stream at full speed."""

DEFAULT_ROWS_PER_GROUP = 65_536

UNITS_FILE = "units.json"
RUN_FILE = "run.json"
TIMINGS_FILE = "timings.json"
SUCCESS_FILE = "_SUCCESS"
EXAMPLES_FILE = "examples.png"


@dataclass(frozen=True)
class FileStamp:
    """What the manifest says of a file: its bytes and their sha256 (hex)."""

    size_bytes: int
    sha256: str


class PartFacts(NamedTuple):
    """What a part says of itself: rows, stamp, and its footer's keys."""

    rows: int
    stamp: FileStamp
    footer: dict[str, str]

    @property
    def counts(self) -> tuple[int, int, str]:
        """Rows, bytes and sha256, as the manifest lists them."""
        return self.rows, self.stamp.size_bytes, self.stamp.sha256


@dataclass(frozen=True)
class RunFolder:
    """A run directory by its path or URL. Small and picklable: every worker opens its own file system."""

    url: str

    @functools.cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return fsspec.core.url_to_fs(self.url)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the opened file system at home: it holds locks and sockets."""
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the path only."""
        object.__setattr__(self, "url", state["url"])

    @property
    def file_system(self) -> fsspec.AbstractFileSystem:
        """The file system that holds the run."""
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        """Whether the run lies on a local disk, where a rename is atomic."""
        return isinstance(self.file_system, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """The full path of a file of the run, for its file system."""
        root = self._opened[1]
        return f"{root.rstrip('/')}/{name}" if name else root

    def has(self, name: str) -> bool:
        """Whether the run has this file."""
        return self.file_system.exists(self.path(name))

    def read(self, name: str) -> bytes:
        """The bytes of one file of the run."""
        return self.file_system.cat_file(self.path(name))

    def read_json(self, name: str) -> Any:
        """One JSON file of the run."""
        return json.loads(self.read(name))

    def write(self, name: str, data: bytes) -> FileStamp:
        """Writes one file, whole or not at all.

        A local file appears under its name by a rename; an object store shows an object only when its one PUT
        is complete. Workers may write the same file twice, or at the same time: they write the same bytes.
        """
        path = self.path(name)
        if self.is_local:
            _write_and_rename(path, data)
        else:
            self.file_system.pipe_file(path, data)
        return stamp(data)

    def write_json(self, name: str, value: Any) -> FileStamp:
        """Writes one JSON file with sorted keys, so that equal values are equal bytes."""
        return self.write(name, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())

    def remove(self, name: str) -> None:
        """Removes a file of the run if it is there."""
        if self.has(name):
            self.file_system.rm_file(self.path(name))

    def names(self, folder: str) -> list[str]:
        """Names of the files in one folder of the run, sorted; files that are being written are left out."""
        self.file_system.invalidate_cache(self.path(folder))
        if not self.has(folder):
            return []
        names = (entry.rsplit("/", 1)[-1] for entry in self.file_system.ls(self.path(folder), detail=False))
        return sorted(name for name in names if not name.startswith("."))

    def write_part(self, name: str, rows: pa.Table, table: Table, footer: dict[str, str]) -> FileStamp:
        """Writes one part of a table as Parquet with the footer's keys in the file's metadata.

        Raises:
            SchemaError: the rows break the table's contract.
        """
        return self.write(name, parquet_bytes(conform(rows, table), table, footer))

    def read_part(self, name: str, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Reads one part and checks it against its table; with `columns`, those only and unchecked.

        Raises:
            SchemaError: the part breaks its table's contract.
        """
        data = pq.read_table(io.BytesIO(self.read(name)), columns=list(columns) if columns else None)
        return data if columns else conform(data, TABLES[name.split("/", 1)[0]])

    def part_facts(self, name: str) -> PartFacts:
        """Rows, bytes, sha256 and footer of one part that is there."""
        data = self.read(name)
        file = pq.ParquetFile(io.BytesIO(data))
        return PartFacts(file.metadata.num_rows, stamp(data), _own_keys(file.schema_arrow.metadata))

    def read_footer(self, name: str) -> dict[str, str] | None:
        """The metadata of one part's footer, or None where there is no part."""
        try:
            with self.file_system.open(self.path(name), "rb") as file:
                return _own_keys(pq.read_schema(file).metadata)
        except FileNotFoundError:
            return None


def open_run_folder(url: str) -> RunFolder:
    """The run directory at a path or URL; a local path is made absolute, since workers have folders of their own.

    Raises:
        UserError: no file system of fsspec serves the URL.
    """
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"--output {url}: cannot open this place ({error}); wanted a path or an fsspec URL") from error
    return RunFolder(os.path.abspath(path) if isinstance(file_system, LocalFileSystem) else url)


def parquet_bytes(rows: pa.Table, table: Table, footer: dict[str, str]) -> bytes:
    """A table as the bytes of one Parquet file: zstd, standard nested names, no clock and no host in it."""
    rows = rows.replace_schema_metadata({**(table.schema.metadata or {}), **footer})
    sink = io.BytesIO()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=ROWS_PER_GROUP.get(table.name, DEFAULT_ROWS_PER_GROUP),
        use_compliant_nested_type=True,
        store_schema=True,
    )
    return sink.getvalue()


def stamp(data: bytes) -> FileStamp:
    """Size and sha256 of a file's bytes."""
    return FileStamp(len(data), hashlib.sha256(data).hexdigest())


def _own_keys(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items() if key.startswith(b"ovseg.")}


def _write_and_rename(path: str, data: bytes) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # A dot keeps half-written files out of every reader's glob; a killed writer leaves at most this one.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
