"""What is known of parts without reading them.

The end of a run notes what each part says of itself beside its file's size and time. A resumed run would otherwise read
a whole corpus only to list it again. The note is a saving and no promise: a part whose file has another size or time
than it had then is read, and so is every part where a file system tells no time.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from pipelines.caption_formats.input_files import CHANGE_KEYS
from schemas import TABLES

if TYPE_CHECKING:
    from pipelines.write_tables import RunFolder

HASH_KEY = "ovseg.step_hash"
TOTALS_KEY = "ovseg.totals"

KNOWN_FILE = ".parts.arrow"

KNOWN_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("step_hash", pa.string()),
        ("totals", pa.string()),
        ("changed", pa.string()),
    ]
)
"""A noted part; `totals` is null where the part has none, `changed` what its file system says of its last change."""


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


class ListedFile(NamedTuple):
    """A file as its folder lists it: bytes, and a time or tag that changes when it is written."""

    size_bytes: int
    changed: str


class NotedPart(NamedTuple):
    """A part by its name in the run, and what is noted of it."""

    name: str
    rows: int
    size_bytes: int
    sha256: str
    step_hash: str
    totals: str | None


class KnownParts:
    """Facts of parts by name. They stay in columns: a corpus has millions of parts."""

    def __init__(self, noted: pa.Table, listed: dict[str, ListedFile]) -> None:
        """Takes of the rows of KNOWN_SCHEMA those whose files are listed as they were."""
        self._noted = noted.combine_chunks()
        columns = (noted[name].to_pylist() for name in ("name", "size_bytes", "changed"))
        rows = enumerate(zip(*columns, strict=True))
        self._row_of = {name: row for row, (name, *file) in rows if listed.get(name) == tuple(file)}

    def get(self, name: str) -> PartFacts | None:
        """Facts of one part; None where they are not known. The footer holds step hash and totals only."""
        row = self._row_of.get(name)
        if row is None:
            return None
        _, rows, size_bytes, sha256, step_hash, totals, _ = (column[row].as_py() for column in self._noted.columns)
        footer = {HASH_KEY: step_hash} | ({TOTALS_KEY: totals} if totals is not None else {})
        return PartFacts(rows, FileStamp(size_bytes, sha256), footer)

    def forget(self, name: str) -> None:
        """Forgets a part whose file is about to change."""
        self._row_of.pop(name, None)


def read_known(run: RunFolder) -> KnownParts:
    """What the last finishing of a run noted, of the parts that lie there unchanged."""
    try:
        noted = pa.ipc.open_file(run.read(KNOWN_FILE)).read_all()
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
        noted = KNOWN_SCHEMA.empty_table()
    # The note of another release says nothing.
    is_ours = noted.num_rows > 0 and noted.schema == KNOWN_SCHEMA
    return KnownParts(noted, listed_parts(run)) if is_ours else KnownParts(KNOWN_SCHEMA.empty_table(), {})


def note_parts(run: RunFolder, parts: Iterable[NotedPart]) -> None:
    """Writes down what is known of parts, for the next command; a part whose file is not as noted is left out."""
    listed = listed_parts(run)
    files = ((part, listed.get(part.name)) for part in parts)
    rows = [(*part, file.changed) for part, file in files if file and file.size_bytes == part.size_bytes]
    columns = zip(zip(*rows, strict=True), KNOWN_SCHEMA, strict=True) if rows else ()
    arrays = [pa.array(values, field.type) for values, field in columns]
    table = pa.Table.from_arrays(arrays, schema=KNOWN_SCHEMA) if rows else KNOWN_SCHEMA.empty_table()
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, KNOWN_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    run.write(KNOWN_FILE, sink.getvalue())


def listed_parts(run: RunFolder) -> dict[str, ListedFile]:
    """Every file in the tables' folders by its name in the run, where its file system tells when it changed."""
    listed = {}
    for table in TABLES:
        for entry in run.entries(table):
            changed = next((str(entry[key]) for key in CHANGE_KEYS if entry.get(key)), "")
            if changed:
                listed[f"{table}/{entry['name'].rsplit('/', 1)[-1]}"] = ListedFile(entry["size"], changed)
    return listed
