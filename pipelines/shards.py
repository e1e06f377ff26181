"""Several machines on one run without an engine: each makes its units, and `--finish` writes the manifest.

Unit n is of shard n mod count. The first shard writes down what every part must be made of; a shard that would make
something else is refused, and finishing checks every part against it, without opening a model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.manifest import StageFacts, finish_run, note_timings
from pipelines.plan import Plan, changed_keys, changes
from pipelines.retry_drops import unsettled_units
from pipelines.units import (
    HASH_KEY,
    PartStats,
    Step,
    StoredTable,
    drops_name,
    is_done,
    part_name,
    read_units,
    step_hash,
    stored_part,
)
from pipelines.versions import versions
from pipelines.write_tables import RETRY_FILE, SHARDS_FILE, RunFolder
from schemas import UserError
from schemas.drops import STAGES

UNITS_NAMED = 10
"""How many missing units of a table a sentence names."""


@dataclass(frozen=True)
class RecordedStep:
    """A step as a shard wrote it down: enough to tell its parts, not to make them.

    `sources` are the tables that it reads, by its name for them: the run's URL ("" for its own) and the table.
    """

    run: RunFolder
    name: str
    table: str
    recorded: dict[str, Any]
    sources: dict[str, list[str]]

    def fingerprint(self) -> dict[str, Any]:
        """As the step's was."""
        return self.recorded

    def inputs(self, unit: int) -> dict[str, tuple[RunFolder, str]]:
        """The parts that the step reads."""
        runs = {name: RunFolder(url) if url else self.run for name, (url, _) in self.sources.items()}
        return {name: (runs[name], part_name(table, unit)) for name, (_, table) in self.sources.items()}


def record_plan(plan: Plan) -> None:
    """Writes down what a shard is about to make.

    Raises:
        UserError: another shard of the run makes something else, or with other versions.
    """
    record = json.loads(json.dumps(plan_record(plan)))
    known = plan.run.read_json(SHARDS_FILE) if plan.run.has(SHARDS_FILE) else record
    changed = changes(what_decides(known), what_decides(record))
    if changed:
        raise UserError(
            f"--output {plan.run.url}: its shards were started with other {', '.join(changed)}; give every shard the "
            "same options (--torch-threads too), versions and kind of device, or remove "
            f"{plan.run.path(SHARDS_FILE)} to start all of them again"
        )
    plan.run.write_json(SHARDS_FILE, known)


def plan_record(plan: Plan) -> dict[str, Any]:
    """All that finishing needs to know of a plan."""
    return {
        "stages": {name: asdict(facts) for name, facts in plan.stages.items()},
        "steps": {step.name: {"table": step.table, "sources": sources_of(step)} for step in plan.steps},
        "versions": versions(),
    }


def sources_of(step: Step | StoredTable) -> dict[str, list[str]] | None:
    """The tables that a step reads, by run and table; None for a table that is only counted."""
    if isinstance(step, StoredTable):
        return None
    inputs = step.inputs(0).items()
    return {name: ["" if run == step.run else run.url, part.split("/")[0]] for name, (run, part) in inputs}


def what_decides(record: dict[str, Any]) -> dict[str, Any]:
    """What all shards must have in common, by stage; how fast they fetch is theirs."""
    return {"versions": record["versions"], **{name: each["fingerprint"] for name, each in record["stages"].items()}}


def end_plan(plan: Plan, stats: Sequence[PartStats]) -> dict[str, Any] | None:
    """Finishes the run whose parts are all there, and returns its manifest; of a shard, notes where its time went."""
    if plan.is_shard:
        note_timings(plan.run, plan.shard[0], stats)
        return None
    return finish_run(plan.run, plan.units, plan.stages, stats)


def finish_shards(run: RunFolder) -> dict[str, Any]:
    """Writes the manifest and _SUCCESS of a run that shards made; returns the manifest.

    Raises:
        UserError: there is no such run, parts are missing or stale, or this machine has other versions.
    """
    units = read_units(run)
    if units is None or not run.has(SHARDS_FILE):
        raise UserError(
            f"--output {run.url} holds nothing for --finish to finish; start its shards with --shard-index and "
            "--shard-count, or give the command without them, which finishes the run itself"
        )
    record = run.read_json(SHARDS_FILE)
    refuse_other_versions(run, record["versions"])
    steps = [recorded_step(run, name, record) for name in STAGES if name in record["steps"]]
    refuse_missing(run, missing_units(run, steps, range(units.count)), units.count)
    stages = {name: StageFacts(**record["stages"][name]) for name in STAGES if name in record["stages"]}
    return finish_run(run, units, stages, [stored_part(step, unit) for step in steps for unit in range(units.count)])


def recorded_step(run: RunFolder, name: str, record: dict[str, Any]) -> RecordedStep | StoredTable:
    """A step, or a table that is only counted, as a shard wrote it down."""
    table, sources = record["steps"][name]["table"], record["steps"][name]["sources"]
    if sources is None:
        return StoredTable(run, name, table)
    return RecordedStep(run, name, table, record["stages"][name]["fingerprint"], sources)


def refuse_other_versions(run: RunFolder, wanted: dict[str, str]) -> None:
    """Refuses to write a manifest that would name other versions than the parts were made with.

    Raises:
        UserError: naming the packages.
    """
    changed = changed_keys(wanted, versions())
    if changed:
        raise UserError(
            f"--finish: this machine has other versions of {', '.join(changed)} than those that made {run.url}; finish "
            "it where one of its shards ran"
        )


def missing_units(run: RunFolder, steps: Collection[RecordedStep | StoredTable], units: range) -> dict[str, list[int]]:
    """By table, the units whose part is not there, stale, or behind a retry of the masks it was made from."""
    missing = {step.table: [unit for unit in units if not stands(step, unit)] for step in steps}
    if run.has(RETRY_FILE) and not any(missing.values()):
        missing["pairs"] = unsettled_units(run, units)
    return {table: numbers for table, numbers in missing.items() if numbers}


def stands(step: RecordedStep | StoredTable, unit: int) -> bool:
    """Whether a unit's part and drops are there, made as they should be."""
    if isinstance(step, StoredTable):
        return step.run.has(part_name(step.table, unit)) and step.run.has(drops_name(step.name, unit))
    footers = {name: run.read_footer(part) for name, (run, part) in step.inputs(unit).items()}
    hashes = {name: footer[HASH_KEY] for name, footer in footers.items() if footer}
    return hashes.keys() == footers.keys() and is_done(step, unit, step_hash(step, hashes))


def refuse_missing(run: RunFolder, missing: dict[str, list[int]], count: int) -> None:
    """Says what a run lacks.

    Raises:
        UserError: it lacks something.
    """
    if missing:
        lacks = "; ".join(f"{table} lacks {len(each):,} ({numbers_in_words(each)})" for table, each in missing.items())
        raise UserError(
            f"--output {run.url} is not finished: of {count:,} parts a table {lacks}; give the commands of the shards "
            "that have these units (unit n is of shard n mod --shard-count) again"
        )


def numbers_in_words(units: list[int]) -> str:
    """The first of some unit numbers."""
    more = ", …" if len(units) > UNITS_NAMED else ""
    return f"unit{'s' if len(units) > 1 else ''} {', '.join(map(str, units[:UNITS_NAMED]))}{more}"
