"""A run directory on any fsspec path, in which every file is whole or absent."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat as file_modes
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipelines.part_facts import FileStamp, KnownParts, PartFacts, read_known
from schemas import TABLES, UserError, conform
from schemas.errors import unwritable
from schemas.table import Table

ROWS_PER_GROUP = {"pairs": 200, "masks": 2000}
"""Row group size by table; pairs may carry crops, and 50 to 200 such rows stream at full speed."""

DEFAULT_ROWS_PER_GROUP = 65_536

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2", "memory"}
"""Protocols whose files appear whole, when their one PUT is complete."""

PART_NAME = re.compile(r"part-(\d{5,})(?:-(\w+))?\.parquet")
"""A part by its file name: unit, and for drops the stage. A run removes nothing of another name."""

FRAGMENT_NAME = re.compile(rf"\.{PART_NAME.pattern}\.[0-9a-f]{{32}}")
"""A part that is being written, or whose writer was killed."""

UNFINISHED_FOLDER = ".unfinished"
"""What is under way: markers of attempts and checkpoints inside units. Gone when the run is finished."""

UNITS_FILE = "units.json"
RUN_FILE = "run.json"
TIMINGS_FILE = "timings.json"
RETRY_FILE = ".retry"
"""There while a retry of drops is under way: until the run is finished, every command on it goes on with that."""

SHARDS_FILE = ".shards.json"
"""What the shards of a run make, until it is finished."""

PLANNED_FILE = ".planned.json"
"""By stage, the fingerprint that the command under way makes parts with: a run that crashed has no run.json yet."""

SUCCESS_FILE = "_SUCCESS"
EXAMPLES_FILE = "examples.png"
REPORT_FILE = "report.html"


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

    @functools.cached_property
    def known(self) -> KnownParts:
        """What the last finishing noted of parts that lie here unchanged; looked up once, forgotten when written to."""
        return read_known(self)

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

    def write(self, name: str, data: bytes, durable: bool = True) -> FileStamp:
        """Writes one file, whole or not at all.

        A file appears under its name by a rename; an object store shows an object only when its one PUT is
        complete. Workers may write the same file twice, or at the same time: they write the same bytes. A local
        file that need not be `durable` may be lost with the machine's power, not with the process.

        Raises:
            UserError: the disk is full, or the place cannot be written to.
        """
        path = self.path(name)
        self._forget(name)
        with writing(path):
            if self.is_local:
                _write_and_rename(path, data, durable)
            elif OBJECT_STORES & set(_protocols(self.file_system)):
                self.file_system.pipe_file(path, data)
            else:
                _pipe_and_move(self.file_system, path, data)
        return stamp(data)

    def write_json(self, name: str, value: Any) -> FileStamp:
        """Writes one JSON file with sorted keys, so that equal values are equal bytes."""
        return self.write(name, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())

    def remove(self, name: str) -> None:
        """Removes a file of the run if it is there; raises UserError where it cannot be removed."""
        self._forget(name)
        if self.has(name):
            # Another machine may have removed it since.
            with writing(self.path(name)), contextlib.suppress(FileNotFoundError):
                self.file_system.rm_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Removes a folder of the run with all that is in it; what another worker removes meanwhile is no error."""
        self.file_system.invalidate_cache(self.path(name))
        if self.is_local:
            shutil.rmtree(self.path(name), ignore_errors=True)
        elif self.has(name):
            with contextlib.suppress(FileNotFoundError):
                self.file_system.rm(self.path(name), recursive=True)

    def names(self, folder: str) -> list[str]:
        """Names of the files in one folder of the run, sorted; files that are being written are left out."""
        names = (entry.rsplit("/", 1)[-1] for entry in self._list(folder, detail=False))
        return sorted(name for name in names if not name.startswith("."))

    def sizes_bytes(self, folder: str) -> dict[str, int]:
        """Size by name of the files in one folder of the run; asks more of a file system than names alone."""
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in self.entries(folder)}

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """What the file system says of each file in one folder of the run: its path as `name`, `size`, and its time."""
        if not self.is_local:
            return self._list(folder, detail=True)
        # What fsspec says of a local file more than this takes ten times as long, and a run has many.
        try:
            found = os.scandir(self.path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        with found:
            return [facts for entry in found if (facts := _facts_of(entry))]

    def _list(self, folder: str, detail: bool) -> list[Any]:
        self.file_system.invalidate_cache(self.path(folder))
        try:
            return self.file_system.ls(self.path(folder), detail=detail)
        except FileNotFoundError:
            return []

    def make_durable(self) -> None:
        """Waits until all that was written is on its disk: one wait in place of one a file."""
        if self.is_local:
            os.sync()

    def write_part(
        self, name: str, rows: pa.Table, table: Table, footer: dict[str, str], durable: bool = True
    ) -> FileStamp:
        """Writes one part of a table as Parquet with the footer's keys in the file's metadata.

        Raises:
            SchemaError: the rows break the table's contract.
        """
        return self.write(name, parquet_bytes(conform(rows, table), table, footer), durable)

    def read_part(self, name: str) -> pa.Table:
        """One part, checked against its table (see `load_part`)."""
        return self.load_part(name)[0]

    def read_columns(self, name: str, columns: tuple[str, ...]) -> pa.Table:
        """Some columns of one part, unchecked."""
        return pq.read_table(io.BytesIO(self.read(name)), columns=list(columns))

    def remove_fragments(self) -> None:
        """Removes what killed writers left: markers, checkpoints, half-written parts, spilled records; nothing else."""
        self.remove_folder(UNFINISHED_FOLDER)
        if not self.is_local:
            return
        root = glob.escape(self.path())
        for path in [path for table in TABLES for path in glob.glob(f"{root}/{table}/.part-*")]:
            if FRAGMENT_NAME.fullmatch(os.path.basename(path)):
                os.unlink(path)
        for path in glob.glob(f"{root}/.spill-*"):
            shutil.rmtree(path, ignore_errors=True)

    def part_facts(self, name: str) -> PartFacts:
        """Rows, bytes, sha256 and footer of one part that is there."""
        known = self.known.get(name)
        if known:
            return known
        data = self.read(name)
        file = pq.ParquetFile(io.BytesIO(data))
        return PartFacts(file.metadata.num_rows, stamp(data), _own_keys(file.schema_arrow.metadata))

    def load_part(self, name: str) -> tuple[pa.Table, dict[str, str]]:
        """One part, checked against its table, and its footer, from the same bytes.

        Raises:
            SchemaError: the part breaks its table's contract.
        """
        data = pq.read_table(io.BytesIO(self.read(name)))
        return conform(data, TABLES[name.split("/", 1)[0]]), _own_keys(data.schema.metadata)

    def read_footer(self, name: str) -> dict[str, str] | None:
        """The metadata of one part's footer, or None where there is no part, or a file that is none."""
        known = self.known.get(name)
        if known:
            return known.footer
        try:
            with self.file_system.open(self.path(name), "rb") as file:
                return _own_keys(pq.read_schema(file).metadata)
        except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
            return None

    def _forget(self, name: str) -> None:
        if "known" in vars(self):
            self.known.forget(name)


def open_run_folder(url: str, option: str = "--output") -> RunFolder:
    """The run directory at a path or URL that is written to.

    Raises:
        UserError: no file system of fsspec serves the URL, or no folder can be made there.
    """
    return run_folder_at(url, option, writable=True)


def run_folder_at(url: str, option: str, writable: bool = False) -> RunFolder:
    """The run directory at a path or URL; a local path is made absolute, since workers have folders of their own.

    Raises:
        UserError: no file system of fsspec serves the URL, or it must be `writable` and no folder can be made there.
    """
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(f"{option} {url}: cannot open this place ({error}); wanted a path or an fsspec URL") from error
    if not isinstance(file_system, LocalFileSystem):
        return RunFolder(url)
    if writable:
        require_writable_folder(os.path.abspath(path), option)
    return RunFolder(os.path.abspath(path))


def refuse_inside(run: RunFolder, place: RunFolder, option: str) -> None:
    """Refuses a place below a run's folder, by whatever links and names it is reached: other verbs read what is there.

    The run's own folder is no place below it.

    Raises:
        UserError: the place lies in the run.
    """
    outer, inner = (real_place(each) for each in (run, place))
    if inner.startswith(f"{outer.rstrip('/')}/"):
        raise UserError(
            f"{option} {place.path()}: lies inside the run {run.path()}, whose files are all its own; give a "
            "place outside of it"
        )


def real_place(folder: RunFolder) -> str:
    """Where a folder lies, links followed, in a form that two folders of one place share."""
    path = folder.path()
    return os.path.realpath(path) if folder.is_local else folder.file_system.unstrip_protocol(path)


@contextlib.contextmanager
def writing(place: str) -> Iterator[None]:
    """Around whatever writes: a failure of the file system becomes the sentence about this place.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(place, error) from error


def require_writable_folder(path: str, option: str) -> None:
    """Refuses a local path where no folder can be made.

    Raises:
        UserError: the path, or the nearest one above it that is there, is no folder that we may write to.
    """
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK):
        raise UserError(f"{option} {path}: {nearest} is no folder that can be written to; give another place")


def parquet_bytes(rows: pa.Table, table: Table, footer: dict[str, str]) -> bytes:
    """A table as the bytes of one Parquet file: zstd, standard nested names, no clock and no host in it."""
    rows = rows.replace_schema_metadata({**(table.schema.metadata or {}), **footer})
    sink = io.BytesIO()
    options = {"compression": "zstd", "compression_level": 3, "use_compliant_nested_type": True, "store_schema": True}
    with pq.ParquetWriter(sink, rows.schema, **options) as writer:
        # An empty part has no row group: `datasets` cannot read a group without rows.
        if rows.num_rows:
            writer.write_table(rows, ROWS_PER_GROUP.get(table.name, DEFAULT_ROWS_PER_GROUP))
    return sink.getvalue()


def stamp(data: bytes) -> FileStamp:
    """Size and sha256 of a file's bytes."""
    return FileStamp(len(data), hashlib.sha256(data).hexdigest())


def _own_keys(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items() if key.startswith(b"ovseg.")}


def _facts_of(entry: os.DirEntry[str]) -> dict[str, Any] | None:
    """A file's facts under fsspec's names; None for what is no file, or is gone since it was listed."""
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    is_file = file_modes.S_ISREG(status.st_mode)
    return {"name": entry.path, "size": status.st_size, "mtime": status.st_mtime} if is_file else None


def _protocols(file_system: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = file_system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _pipe_and_move(file_system: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    folder, name = path.rsplit("/", 1)
    file_system.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    file_system.pipe_file(temporary, data)
    file_system.mv(temporary, path)


def _write_and_rename(path: str, data: bytes, durable: bool) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # A dot keeps half-written files out of every reader's glob; a killed writer leaves at most this one.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
