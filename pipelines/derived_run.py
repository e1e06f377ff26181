"""A run that is made of finished runs: which runs those are, where it lies, and how its parts and its end are written.

`ovseg filter` and `ovseg merge` make such runs. A derived run is read like a mined one; beside that, `sources` in its
run.json says what it was made of. Its parts carry the hash of their own rows in place of a step's: the same rows are
the same bytes, whatever was filtered or merged first.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.manifest import TABLES_IN_ORDER, part_facts
from pipelines.open_run import open_run_with_pairs
from pipelines.part_facts import HASH_KEY, TOTALS_KEY
from pipelines.stopwatch import SECONDS
from pipelines.units import StepTotals, Units, drops_name, foreign_file, part_name, read_units
from pipelines.versions import versions
from pipelines.write_tables import (
    PLANNED_FILE,
    RUN_FILE,
    SUCCESS_FILE,
    TIMINGS_FILE,
    UNITS_FILE,
    RunFolder,
    parquet_bytes,
    run_folder_at,
)
from schemas import DROPS, TABLES, SchemaError, UserError, conform
from schemas.run import RUN_FORMAT, check_run

DROPS_ORDER = [(name, "ascending") for name in ("key", "reason", "detail")]


@dataclass(frozen=True)
class Source:
    """A finished run that another is made of: its folder, run.json and its sha256 (hex), and how it is cut."""

    run: RunFolder
    manifest: dict[str, Any]
    run_sha256: str
    units: Units

    @property
    def tables(self) -> dict[str, Any]:
        """What run.json says of each table."""
        return self.manifest["tables"]

    def parts(self, table: str) -> list[dict[str, Any]]:
        """The parts of a table as run.json lists them, the first unit first; none where there is no such table."""
        return self.tables.get(table, {"parts": []})["parts"]


class DerivedPart(NamedTuple):
    """A written part: its table and what run.json says of it."""

    table: str
    facts: dict[str, Any]


class DerivedStage(NamedTuple):
    """What a stage of a derived run did: what its totals count, its options, all that decides its rows, its totals.

    `parts` and `seconds` stand in timings.json alone.
    """

    counts: str
    options: dict[str, Any]
    fingerprint: dict[str, Any]
    totals: StepTotals
    parts: int
    seconds: float


# The runs that it is made of.


def open_source(url: str, option: str = "RUN") -> Source:
    """A finished run with PAIRS by its path or URL; it is only read.

    Raises:
        UserError: there is none, it is not finished, of another release, or has no PAIRS.
    """
    finished = open_run_with_pairs(url, option)
    units = read_units(finished.run)
    if units is None:
        raise UserError(f"{option} {url}: has no {UNITS_FILE}; give the whole folder of a run")
    return Source(*finished, units)


def source_entries(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """`sources` of run.json: each run once, whatever order they are named in, by the sha256 of its run.json."""
    by_hash = {source.run_sha256: source for source in sources}
    return [{"run_sha256": sha256, **without_parts(by_hash[sha256].manifest)} for sha256 in sorted(by_hash)]


def without_parts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest whose tables say version and rows only."""
    tables = {
        name: {key: value for key, value in facts.items() if key != "parts"}
        for name, facts in manifest["tables"].items()
    }
    return {**manifest, "tables": tables}


def input_sha256(sources: Iterable[Source]) -> str:
    """sha256 over the sources, in hex: what `units.input_sha256` of a derived run is."""
    return hashlib.sha256("\n".join(_source_hashes(sources)).encode()).hexdigest()


def weights_of(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """The weights of all sources, each once, in an order of their own."""
    distinct = {
        repr(sorted(weight.items(), key=str)): weight for source in sources for weight in source.manifest["weights"]
    }
    return [distinct[key] for key in sorted(distinct)]


def read_source_part(source: Source, name: str) -> pa.Table:
    """One part of a source, checked against its table.

    Raises:
        UserError: it is missing, damaged, or of another version of the table.
    """
    try:
        return conform(_read(source, name, None), TABLES[name.split("/", 1)[0]])
    except (OSError, pa.ArrowInvalid, SchemaError) as error:
        raise UserError(_unreadable(source, name, error)) from error


def read_source_columns(source: Source, name: str, columns: Collection[str]) -> pa.Table:
    """Some columns of one part of a source, unchecked.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return _read(source, name, list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(_unreadable(source, name, error)) from error


def _read(source: Source, name: str, columns: list[str] | None) -> pa.Table:
    # A part is small: what pq.read_table does beside this, and its threads, take as long as the reading.
    with pq.ParquetFile(pa.BufferReader(source.run.read(name))) as file:
        return file.read(columns, use_threads=False)


def _unreadable(source: Source, name: str, error: Exception) -> str:
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{source.run.path(name)}: cannot be read ({what}); give the command that made the run once more"


# The folder of the new run.


def open_derived_run(
    url: str, sources: Sequence[Source], units: Units, stage: str, fingerprint: dict[str, Any]
) -> RunFolder:
    """The folder that a derived run is written to, begun: a command that was stopped is known by it.

    `fingerprint` is all that decides the rows beside the sources. A finished run of the same command is left alone
    (see `is_finished`).

    Raises:
        UserError: no output was named, it is one of the sources, or it holds something else.
    """
    if not url:
        raise UserError("--output is missing; give a folder for the new run")
    run = run_folder_at(url, "--output", writable=True)
    if any(source.run.path() == run.path() for source in sources):
        raise UserError(f"--output {url} is one of the runs that are read; give a folder of its own for the new run")
    wanted = {
        stage: {"fingerprint": fingerprint, "sources": [entry["run_sha256"] for entry in source_entries(sources)]}
    }
    if is_finished(run, sources, stage, fingerprint):
        return run
    if _is_taken(run) and not (run.has(PLANNED_FILE) and run.read_json(PLANNED_FILE) == wanted):
        raise UserError(f"--output {url} holds another run, or the same with other options; give an empty folder")
    run.write_json(PLANNED_FILE, wanted)
    units.save(run)  # readers know by it that a folder without run.json is no folder of loose files
    return run


def _is_taken(run: RunFolder) -> bool:
    return any(run.has(name) for name in (RUN_FILE, UNITS_FILE, PLANNED_FILE)) or any(map(run.names, TABLES))


def is_finished(run: RunFolder, sources: Sequence[Source], stage: str, fingerprint: dict[str, Any]) -> bool:
    """Whether the folder holds the whole run that a command would make.

    Raises:
        UserError: its run.json is none of ours.
    """
    if not run.has(SUCCESS_FILE) or not run.has(RUN_FILE):
        return False
    try:
        manifest = check_run(run.read_json(RUN_FILE))
        same_stage = manifest["stages"].get(stage, {}).get("fingerprint") == _as_json(fingerprint)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(foreign_file(run, RUN_FILE)) from error
    return same_stage and [source["run_sha256"] for source in manifest["sources"]] == _source_hashes(sources)


def _source_hashes(sources: Iterable[Source]) -> list[str]:
    return sorted({source.run_sha256 for source in sources})


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


# Parts.


def write_derived_part(run: RunFolder, table: str, unit: int, rows: pa.Table, totals: str | None = None) -> DerivedPart:
    """Writes one part whose footer carries the hash of its rows and, where given, totals (JSON of StepTotals).

    It is on its disk once `finish_derived_run` has returned.

    Raises:
        SchemaError: the rows break the table's contract.
    """
    footer = {} if totals is None else {TOTALS_KEY: totals}
    return write_checked_part(run, part_name(table, unit), conform(rows, TABLES[table]), footer)


def write_derived_drops(run: RunFolder, stage: str, unit: int, drops: pa.Table) -> DerivedPart:
    """Writes the drops of one stage and unit (DROPS rows in any order), sorted."""
    return write_checked_part(run, drops_name(stage, unit), conform(drops.sort_by(DROPS_ORDER), DROPS), {})


def write_checked_part(run: RunFolder, name: str, rows: pa.Table, footer: dict[str, str]) -> DerivedPart:
    """As `write_derived_part`, of rows that `conform` has given, alone or with those of other parts."""
    table = TABLES[name.split("/", 1)[0]]
    rows = rows.combine_chunks()
    data = parquet_bytes(rows, table, {HASH_KEY: content_sha256(rows), **footer})
    return DerivedPart(table.name, part_facts(name, rows.num_rows, run.write(name, data, durable=False)))


def copy_derived_part(run: RunFolder, table: str, name: str, data: bytes, rows: int) -> DerivedPart:
    """Writes a part that is taken as it is from a source, byte for byte."""
    return DerivedPart(table, part_facts(name, rows, run.write(name, data, durable=False)))


def content_sha256(rows: pa.Table) -> str:
    """sha256 over the rows' values and nothing else (not how Arrow holds them in memory), in hex."""
    sink = io.BytesIO()
    # Parquet's plain pages leave out what lies under nulls, and offsets of slices.
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(rows.combine_chunks(), sink, max(1, rows.num_rows), **options)
    return hashlib.sha256(sink.getbuffer()).hexdigest()


def totals_of(read: int, kept: int, reasons: pa.Array | pa.ChunkedArray) -> StepTotals:
    """Totals of a stage in one unit from what it read and kept and the reasons of its drops (strings).

    Raises:
        RuntimeError: kept + dropped is not what was read; a record was lost or counted twice.
    """
    if kept + len(reasons) != read:
        raise RuntimeError(
            f"read {read}, but kept {kept} and dropped {len(reasons)}; a record was lost or counted twice, please "
            "report this"
        )
    counts = {each["values"]: each["counts"] for each in pc.value_counts(reasons).to_pylist()}
    return StepTotals(read, kept, dict(sorted(counts.items())))


# The end.


def finish_derived_run(
    run: RunFolder,
    units: Units,
    sources: Sequence[Source],
    stages: Mapping[str, DerivedStage],
    parts: Iterable[DerivedPart],
) -> dict[str, Any]:
    """Writes what describes the whole run, _SUCCESS last; returns the manifest. Doing it twice writes the same bytes.

    `parts` are all parts of all tables, VOCABULARY's among them.
    """
    manifest = check_run(
        {
            "format": RUN_FORMAT,
            "units": asdict(units),
            "stages": {name: _stage_facts(stage) for name, stage in stages.items()},
            "tables": _table_facts(list(parts)),
            "weights": weights_of(sources),
            "sources": source_entries(sources),
            "versions": versions(),
            "meaningless": any(source.manifest["meaningless"] for source in sources),
        }
    )
    run.make_durable()
    units.save(run)
    run.write_json(TIMINGS_FILE, _timings(stages))
    run.write_json(RUN_FILE, manifest)
    run.remove(PLANNED_FILE)
    run.write(SUCCESS_FILE, b"")
    return manifest


def _stage_facts(stage: DerivedStage) -> dict[str, Any]:
    facts = {"counts": stage.counts, "options": stage.options, "fingerprint": stage.fingerprint}
    return {**facts, "totals": stage.totals.as_dict()}


def _table_facts(parts: Sequence[DerivedPart]) -> dict[str, Any]:
    tables = {}
    for table in sorted({part.table for part in parts}, key=TABLES_IN_ORDER.index):
        listed = sorted((part.facts for part in parts if part.table == table), key=lambda facts: facts["path"])
        rows = sum(facts["rows"] for facts in listed)
        tables[table] = {"version": TABLES[table].version, "rows": rows, "parts": listed}
    return tables


def _timings(stages: Mapping[str, DerivedStage]) -> dict[str, Any]:
    """The same keys as of a mined run's, which `ovseg report` reads."""
    nothing = {"parts_there": 0, **dict.fromkeys(SECONDS, 0.0)}
    facts = {
        name: {**nothing, "parts_made": stage.parts, "seconds_in_made_parts": round(stage.seconds, 3)}
        for name, stage in stages.items()
    }
    host = {"platform": platform.platform(), "cpus": os.cpu_count(), "processor": platform.machine()}
    return {"stages": facts, "host": host}


def unit_parts(parts: Iterable[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """The units and names of listed parts of one table."""
    for facts in parts:
        yield int(facts["path"].rsplit("part-", 1)[1].split(".")[0]), facts["path"]
