"""Work units, parts and done-markers.

A run's images are cut into units; a step makes one table part of one unit from other parts of the same unit.
The part is its own done-marker: its footer carries the step's hash, so that retry, replay, kill -9 and resume
all end in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from pipelines.part_facts import HASH_KEY, TOTALS_KEY
from pipelines.stopwatch import Spent, Stopwatch
from pipelines.write_tables import UNITS_FILE, PartFacts, RunFolder
from schemas import DROPS, TABLES, UserError, conform_rows


@dataclass(frozen=True)
class Units:
    """How a run is cut: by a hash of image_id into `count` units, or along tar shards (`scheme`).

    `input_sha256` is over the content of the input; a folder with another one holds another run. `shards` are the
    shards' names, in order, and empty for the other scheme.
    """

    scheme: str
    count: int
    images: int
    input_sha256: str
    options: dict[str, Any]
    shards: tuple[str, ...] = ()

    def cut(self) -> tuple[str, int, tuple[str, ...]]:
        """What must be equal where unit n of one run is to be unit n of another."""
        return self.scheme, self.count, tuple(self.shards)

    def save(self, run: RunFolder) -> None:
        """Writes the cut, last of all that freezing writes: its file says that the input is frozen."""
        run.write_json(UNITS_FILE, asdict(self))


def read_units(run: RunFolder) -> Units | None:
    """The cut of a frozen run, or None where nothing is frozen yet.

    Raises:
        UserError: the file is none of ours.
    """
    if not run.has(UNITS_FILE):
        return None
    try:
        saved = run.read_json(UNITS_FILE)
        return Units(**{**saved, "shards": tuple(saved["shards"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(foreign_file(run, UNITS_FILE)) from error


def foreign_file(run: RunFolder, name: str) -> str:
    """The sentence about a file that has the name of ours and is none."""
    return (
        f"{run.path(name)} is no file of a run of this release, and would be written over; choose another folder for "
        "the run, or move the file away"
    )


def image_digest(image_id: str) -> int:
    """The first 64 bits of sha256(image_id); modulo the count it is the image's unit where the cut is by hash."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")


def unit_count(images: int, images_per_unit: int) -> int:
    """The power of two that comes nearest to `images_per_unit` images a unit.

    A power of two lets one fixed set of spill buckets serve every count (see freeze_captions).
    """
    wanted = max(1.0, images / images_per_unit)
    return min((1 << power for power in range(40)), key=lambda count: abs(count / wanted - 1))


def part_name(table: str, unit: int) -> str:
    """Where a unit's part of a table lies in the run."""
    return f"{table}/part-{unit:05d}.parquet"


def drops_name(stage: str, unit: int) -> str:
    """Where the drops of one stage and unit lie in the run."""
    return f"drops/part-{unit:05d}-{stage}.parquet"


class StepTotals(NamedTuple):
    """What a step read, kept and dropped in one unit; kept + dropped = read."""

    read: int
    kept: int
    dropped: dict[str, int]
    measured: dict[str, int] | None = None
    """Counts of what else it measured, by name; they add up over units."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without what was not measured, so that parts of steps that measure nothing stay what they were."""
        return {name: value for name, value in self._asdict().items() if name != "measured" or value}


class StepOutput(NamedTuple):
    """What a step makes of one unit: its table's rows, its drops (DROPS rows), and how many records it read."""

    rows: pa.Table
    drops: list[dict[str, Any]]
    read: int
    kept: int
    measured: dict[str, int] | None = None


class Step(Protocol):
    """A function from a unit's table parts to one table part."""

    @property
    def run(self) -> RunFolder:
        """The run that it writes to."""

    @property
    def name(self) -> str:
        """The stage's name in DROPS, totals and progress."""

    @property
    def table(self) -> str:
        """The table that it makes."""

    @property
    def counts(self) -> str:
        """What its totals count, in the plural: captions, images or nouns."""

    def fingerprint(self) -> dict[str, Any]:
        """All that decides its rows, apart from the parts it reads: version, options, sha256 of weights."""

    def inputs(self, unit: int) -> dict[str, tuple[RunFolder, str]]:
        """The parts that it reads, by a name of its own: run and part name."""

    def process(self, unit: int, parts: dict[str, pa.Table]) -> StepOutput:
        """Makes the rows of one unit, or of those of its images that the parts hold."""

    def drops_of_all(self, parts: dict[str, pa.Table], reason: str, detail: str) -> list[dict[str, Any]]:
        """Every record of the parts as a drop: what `process` says of them when it cannot be run."""


Process = Callable[[int, dict[str, pa.Table]], StepOutput]
"""A unit and its parts → what a step makes of them."""


class PartStats(NamedTuple):
    """What travels between steps: which part is there and what its step counted. A few hundred bytes."""

    stage: str
    table: str
    unit: int
    rows: int
    size_bytes: int
    sha256: str
    drops_rows: int
    drops_size_bytes: int
    drops_sha256: str
    totals: str
    was_made: bool
    spent: Spent
    step_hash: str


@dataclass(frozen=True)
class StoredTable:
    """A table that a run has already: its parts are only counted."""

    run: RunFolder
    name: str
    table: str


class MissingPartError(UserError):
    """A part that a step reads is not there."""


def step_hash(step: Step, input_hashes: dict[str, str]) -> str:
    """sha256 over a step's fingerprint and the hashes of the parts it reads, in hex."""
    identity = {
        "step": step.name,
        "table_version": TABLES[step.table].version,
        "fingerprint": step.fingerprint(),
        "inputs": input_hashes,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def make_part(step: Step, unit: int, process: Process | None = None) -> PartStats:
    """Makes one part and its drops, unless they are there with the right hash.

    The drops are written before the part, so that a part that is there has its drops. `process` stands in for the
    step's own: see guarded_units.

    Raises:
        MissingPartError: a part that the step reads is missing.
        SchemaError: the step's rows break the contract.
        RuntimeError: kept + dropped is not what was read.
    """
    stopwatch = Stopwatch()
    sources = step.inputs(unit)
    wanted = step_hash(step, {name: _input_hash(source) for name, source in sources.items()})
    if is_done(step, unit, wanted):
        return stored_part(step, unit)
    loaded = {name: source.load_part(part) for name, (source, part) in sources.items()}
    output = (process or step.process)(unit, {name: rows for name, (rows, _) in loaded.items()})
    # The hash is of the very bytes that were read: another process may have made an input anew meanwhile.
    hash_ = step_hash(step, {name: footer[HASH_KEY] for name, (_, footer) in loaded.items()})
    part, drops, totals = write_output(step, unit, output, hash_)
    spent = stopwatch.read()
    return PartStats(step.name, step.table, unit, *part.counts, *drops.counts, totals, True, spent, hash_)


def is_done(step: Step, unit: int, wanted: str) -> bool:
    """Whether the unit's part and drops are there with the wanted step hash."""
    names = (part_name(step.table, unit), drops_name(step.name, unit))
    return all((step.run.read_footer(name) or {}).get(HASH_KEY) == wanted for name in names)


def write_output(
    step: Step | StoredTable, unit: int, output: StepOutput, hash_: str, durable: bool = True
) -> tuple[PartFacts, PartFacts, str]:
    """Writes what a step made of one unit, drops first; returns the facts of part and drops, and the totals' JSON."""
    totals = json.dumps(count_totals(step.name, unit, output).as_dict(), sort_keys=True)
    rows = conform_rows(sorted(output.drops, key=drop_order), DROPS)
    footer = {HASH_KEY: hash_}
    drops = step.run.write_part(drops_name(step.name, unit), rows, DROPS, footer, durable)
    footer = {**footer, TOTALS_KEY: totals}
    part = step.run.write_part(part_name(step.table, unit), output.rows, TABLES[step.table], footer, durable)
    return PartFacts(output.rows.num_rows, part, footer), PartFacts(rows.num_rows, drops, footer), totals


def stored_part(step: Step | StoredTable, unit: int) -> PartStats:
    """The stats row of a part that is there already.

    Raises:
        MissingPartError: it is not.
    """
    names = (part_name(step.table, unit), drops_name(step.name, unit))
    for name in names:
        if not step.run.known.get(name) and not step.run.has(name):
            raise MissingPartError(f"{step.run.path(name)} is missing; make the {step.table} table of this run again")
    part, drops = map(step.run.part_facts, names)
    totals, hash_ = part.footer[TOTALS_KEY], part.footer[HASH_KEY]
    return PartStats(step.name, step.table, unit, *part.counts, *drops.counts, totals, False, Spent(), hash_)


def drop_order(row: dict[str, Any]) -> tuple[str, str, str]:
    """The order of DROPS rows."""
    return row["key"], row["reason"], row["detail"]


def count_totals(stage: str, unit: int, output: StepOutput) -> StepTotals:
    """A step's totals of one unit.

    Raises:
        RuntimeError: kept + dropped is not what was read; a record was lost or counted twice.
    """
    dropped = Counter(row["reason"] for row in output.drops)
    if output.kept + dropped.total() != output.read:
        raise RuntimeError(
            f"{stage}, unit {unit}: read {output.read}, but kept {output.kept} and dropped {dropped.total()}; "
            "a record was lost or counted twice, please report this"
        )
    return StepTotals(output.read, output.kept, dict(sorted(dropped.items())), output.measured)


def drop(stage: str, key: str, image_id: str | None, reason: str, detail: str) -> dict[str, Any]:
    """One row of DROPS."""
    return {"stage": stage, "key": key, "image_id": image_id, "reason": reason, "detail": detail}


def count_distinct_rows(rows: pa.Table, columns: tuple[str, ...]) -> int:
    """Distinct combinations of values of some columns."""
    return rows.select(columns).group_by(columns).aggregate([]).num_rows


def by_image(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Cuts a table whose rows of one image are contiguous into one slice an image, in the table's order."""
    ids = rows["image_id"].to_pylist()
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or ids[end] != ids[start]:
            yield ids[start], rows.slice(start, end - start)
            start = end


def sum_totals(totals: Sequence[StepTotals]) -> StepTotals:
    """Totals add up: over units, in any order."""
    return StepTotals(
        sum(each.read for each in totals),
        sum(each.kept for each in totals),
        sum_counts(each.dropped for each in totals),
        sum_counts(each.measured for each in totals) or None,
    )


def sum_counts(counts: Iterable[dict[str, int] | None]) -> dict[str, int]:
    """Counts by name add up, in any order; None counts nothing."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each or {})
    return dict(sorted(total.items()))


def _input_hash(source: tuple[RunFolder, str]) -> str:
    run, name = source
    footer = run.read_footer(name)
    if footer is None:
        table = name.split("/", 1)[0]
        raise MissingPartError(f"{run.path(name)} is missing; make the {table} table of this run first")
    return footer[HASH_KEY]
