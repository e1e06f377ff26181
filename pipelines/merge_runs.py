"""`ovseg merge`: finished runs → one run that holds the union of their tables, in whatever order they are named.

Unit by unit, as a run is made: an image's rows of all runs meet in one unit of the union, so that memory holds one
unit. Runs that are the same run count once; of one run alone the parts are copied as they are.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from ovseg_model.fetch_options import FetchOptions
from pipelines.derived_run import (
    DerivedPart,
    DerivedStage,
    Source,
    copy_derived_part,
    finish_derived_run,
    input_sha256,
    is_finished,
    open_derived_run,
    open_source,
    read_source_columns,
    totals_of,
    write_derived_drops,
    write_derived_part,
)
from pipelines.join_drops import OF_STAGES, StageDrops, Unit, carried_drops
from pipelines.join_images import Sightings, new_ids, of_images, renamed, renamed_drops, sightings_of
from pipelines.join_tables import STAGE, Tables, join_unit, shared_images
from pipelines.manifest import write_vocabulary
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.plan import STAGES
from pipelines.progress import show_progress
from pipelines.recut import RowSpill, SourceRows, units_in_order
from pipelines.report import EndOptions, report_at_end
from pipelines.summary import stage_lines, table_lines
from pipelines.terminal import escaped
from pipelines.units import StepTotals, Units, part_name, sum_totals
from pipelines.write_tables import REPORT_FILE, RunFolder
from schemas import DROPS, TABLES, VOCABULARY, UserError, conform_rows

VERSION = 1

WHOLE = tuple(STAGES)
"""The tables that are joined where every run has them: captions, nouns, masks, pairs."""

FINGERPRINT = {"version": VERSION}


@dataclass(frozen=True)
class MergeOptions:
    """Where the union goes."""

    output: str = option("", "run directory of the union: a path or fsspec URL; a folder of its own")


class MergedPart(NamedTuple):
    """What one unit of the union left: the parts that were written, and what each stage counted."""

    parts: list[DerivedPart]
    totals: dict[str, StepTotals]
    images: int


def main(argv: Sequence[str]) -> int:
    """Merges and prints what came out; `argv` begins with the verb.

    Raises:
        UserError: fewer than two runs are named, one cannot be read, or --output holds another run.
    """
    parser = SentenceParser("ovseg merge", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="finished runs that have PAIRS, two or more, in any order"
    )
    for group in (MergeOptions, EndOptions):
        add_options(parser, group)
    given = parser.parse_args(argv[1:])
    if len(given.runs) < 2:
        raise UserError(f"wanted two runs or more to merge, got {len(given.runs)}; name their folders")
    sources = distinct_sources([open_source(url) for url in given.runs])
    units = units_of(sources)
    run = open_derived_run(read_options(given, MergeOptions).output, sources, units, STAGE, FINGERPRINT)
    if is_finished(run, sources, STAGE, FINGERPRINT):
        print(escaped(f"run: {run.url} is finished: this command made it; nothing was done"))
    else:
        manifest = copy_run(run, sources[0]) if len(sources) == 1 else join_runs(run, sources, units)
        print("\n".join(map(escaped, merge_lines(run, manifest, sources))))
    if read_options(given, EndOptions).report and not run.has(REPORT_FILE):
        report_at_end(run, FetchOptions())
    return 0


def distinct_sources(sources: Sequence[Source]) -> list[Source]:
    """Each run once, in the order of their hashes."""
    by_hash = {source.run_sha256: source for source in sources}
    return [by_hash[sha256] for sha256 in sorted(by_hash)]


def units_of(sources: Sequence[Source]) -> Units:
    """How the union is cut: as the one run is; else into as many units as the run with most, a power of two at least.

    The images of several runs are only known when they are joined.
    """
    if len(sources) == 1:
        return sources[0].units
    most = max(source.units.count for source in sources)
    return Units("hash", 1 << (most - 1).bit_length(), 0, input_sha256(sources), {})


def tables_of_all(sources: Sequence[Source]) -> tuple[str, ...]:
    """The tables that are joined: all four where every run has them, else PAIRS alone."""
    return WHOLE if all(set(WHOLE) <= set(source.tables) for source in sources) else ("pairs",)


def copy_run(run: RunFolder, source: Source) -> dict[str, Any]:
    """Writes the union of a run with itself: its parts, byte for byte; returns its manifest."""
    started = time.monotonic()
    parts = [
        copy_derived_part(run, table, part["path"], source.run.read(part["path"]), part["rows"])
        for table, facts in source.tables.items()
        for part in facts["parts"]
    ]
    rows = source.tables["pairs"]["rows"]
    copied = merge_stage(StepTotals(rows, rows, {}), len(parts), time.monotonic() - started)
    # A merged run's own merging stays what it was: its drops are among the parts.
    stages = {STAGE: copied} | {name: copied_stage(facts) for name, facts in source.manifest["stages"].items()}
    return finish_derived_run(run, source.units, [source], stages, parts)


def join_runs(run: RunFolder, sources: Sequence[Source], units: Units) -> dict[str, Any]:
    """Writes the union of different runs, unit by unit; returns its manifest.

    Raises:
        UserError: a part of a source is missing or damaged, or the disk is full.
    """
    started = time.monotonic()
    tables = tables_of_all(sources)
    run.remove_fragments()
    with tempfile.TemporaryDirectory(prefix=".spill-", dir=run.path() if run.is_local else None) as folder:
        rows = UnionRows(sources, tables, units.count, RowSpill(folder, units.count))
        numbers = show_progress(units_in_order(units.count), "merge", "unit", units.count)
        merged = [merge_unit(run, unit, rows, tables) for unit in numbers]
    parts = [*(part for each in merged for part in each.parts), vocabulary_part(run, sources, tables, units.count)]
    stages = merged_stages(sources, merged, time.monotonic() - started)
    options = stages["read_captions"].options if "read_captions" in stages else {}
    units = replace(units, images=sum(each.images for each in merged), options=options)
    return finish_derived_run(run, units, sources, stages, parts)


# Rows of all runs by unit of the union


class UnionRows:
    """The rows of all sources by unit of the union, under the image_ids that they have there."""

    def __init__(self, sources: Sequence[Source], tables: Sequence[str], count: int, spill: RowSpill) -> None:
        """Finds the images that must be renamed, and spills their rows; `tables` are those that are joined."""
        self._kinds = (*tables, *(OF_STAGES if len(tables) > 1 else ()))
        self._spill = spill
        self._runs = [SourceRows(f"run{number}", source, count, spill) for number, source in enumerate(sources)]
        self._renamed: dict[int, list[str]] = {}
        for unit in units_in_order(count):
            self._rename_in(unit)

    def read(self, unit: int) -> list[Tables]:
        """For each source its rows of a unit: by table, and by stage its drops."""
        return [{kind: self._rows(number, kind, unit) for kind in self._kinds} for number in range(len(self._runs))]

    def _rows(self, number: int, kind: str, unit: int) -> pa.Table:
        rows = self._runs[number].read(kind, unit)
        gone = self._renamed.get(unit)
        kept = of_images(rows, gone, wanted=False) if gone else rows
        return pa.concat_tables([kept, self._spill.read(moved_name(number, kind), kind, unit)])

    def _rename_in(self, unit: int) -> None:
        names = new_ids([sightings_in(run, unit) for run in self._runs])
        if not any(names):
            return
        self._renamed[unit] = sorted(set().union(*names))
        for number, (run, of_run) in enumerate(zip(self._runs, names, strict=True)):
            for kind in self._kinds if of_run else ():
                rename = renamed if kind in TABLES else renamed_drops
                rows = of_images(run.read(kind, unit), of_run)
                self._spill.add(moved_name(number, kind), rename(rows, of_run))


def moved_name(number: int, kind: str) -> str:
    """The name in the spill of a source's rows under new image_ids."""
    return f"moved{number}-{kind}"


def sightings_in(run: SourceRows, unit: int) -> Sightings:
    """What a source knows of the images of a unit."""
    tables = run.source.tables
    captions = run.read_columns("captions", unit, ("image_id", "image_uri")) if "captions" in tables else None
    table = "masks" if "masks" in tables else "pairs"
    return sightings_of(captions, run.read_columns(table, unit, ("image_id", "image_uri", "image_sha256")))


# One unit


def merge_unit(run: RunFolder, unit: int, rows: UnionRows, tables: Sequence[str]) -> MergedPart:
    """Writes one unit of the union."""
    runs = rows.read(unit)
    joined = join_unit(runs, tables)
    reasons = conform_rows(joined.drops, DROPS)
    read, kept = sum(each["pairs"].num_rows for each in runs), joined.tables["pairs"].num_rows
    stages = {STAGE: StageDrops(reasons, totals_of(read, kept, reasons["reason"]))}
    if len(tables) > 1:
        stages |= carried_drops(Unit(runs, joined.numbers, shared_images(runs, tables), joined.tables))
    images = joined.tables[tables[0]]["image_id"].unique()
    parts = [*table_parts(run, unit, joined.tables, stages), *drops_parts(run, unit, stages)]
    return MergedPart(parts, {name: stage.totals for name, stage in stages.items()}, len(images))


def table_parts(run: RunFolder, unit: int, tables: Tables, stages: dict[str, StageDrops]) -> Iterator[DerivedPart]:
    """Writes a unit's tables. Those that other verbs build on say their stage's totals, as mined ones do."""
    for name, rows in tables.items():
        totals = json.dumps(stages[STAGES[name]].totals.as_dict(), sort_keys=True) if name != "pairs" else None
        yield write_derived_part(run, name, unit, rows, totals)


def drops_parts(run: RunFolder, unit: int, stages: dict[str, StageDrops]) -> Iterator[DerivedPart]:
    """Writes a unit's drops."""
    for name, drops in stages.items():
        yield write_derived_drops(run, name, unit, drops.rows)


# The end


def merged_stages(sources: Sequence[Source], merged: Sequence[MergedPart], seconds: float) -> dict[str, DerivedStage]:
    """What run.json says of each stage of the union."""
    totals = {name: sum_totals([each.totals[name] for each in merged]) for name in merged[0].totals}
    stages = {STAGE: merge_stage(totals.pop(STAGE), len(merged), seconds)}
    for name, of_all in totals.items():
        facts = [source.manifest["stages"][name] for source in sources]
        options, fingerprint = (one_of([each[key] for each in facts]) for key in ("options", "fingerprint"))
        stages[name] = DerivedStage(facts[0]["counts"], options, fingerprint, of_all, 0, 0.0)
    return stages


def copied_stage(facts: dict[str, Any]) -> DerivedStage:
    """A stage as a source's run.json has it."""
    totals = StepTotals(**facts["totals"])
    return DerivedStage(facts["counts"], facts["options"], facts["fingerprint"], totals, 0, 0.0)


def merge_stage(totals: StepTotals, parts: int, seconds: float) -> DerivedStage:
    """What run.json says of the merging itself."""
    return DerivedStage("pairs", {}, FINGERPRINT, totals, parts, seconds)


def one_of(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all runs have in common; where they differ, what each has, once, as `merged`."""
    distinct = {json.dumps(value, sort_keys=True): value for value in values}
    return values[0] if len(distinct) == 1 else {"merged": [distinct[key] for key in sorted(distinct)]}


def vocabulary_part(run: RunFolder, sources: Sequence[Source], tables: Collection[str], count: int) -> DerivedPart:
    """Writes VOCABULARY: counted anew over NOUNS and PAIRS, or added up where the union has PAIRS alone."""
    if "nouns" in tables:
        return DerivedPart("vocabulary", write_vocabulary(run, count, with_pairs=True)["parts"][0])
    kept = Counter[str]()
    for unit in range(count):
        kept.update(run.read_columns(part_name("pairs", unit), ("noun",))["noun"].to_pylist())
    return write_derived_part(
        run, "vocabulary", 0, summed_vocabulary([read_vocabulary(each) for each in sources], kept)
    )


def read_vocabulary(source: Source) -> pa.Table:
    """VOCABULARY of a source; empty where it has none."""
    parts = [read_source_columns(source, part["path"], VOCABULARY.schema.names) for part in source.parts("vocabulary")]
    return pa.concat_tables([VOCABULARY.schema.empty_table(), *parts])


def summed_vocabulary(vocabularies: Sequence[pa.Table], kept: Counter[str]) -> pa.Table:
    """VOCABULARY of runs of which PAIRS alone are joined; `kept` counts the union's pairs by noun.

    Captions and images add up: one that two runs share counts twice. A pair that two runs share counts once, and
    before the cap too, as far as a cap left it in both.
    """
    names = VOCABULARY.schema.names[1:]
    counts = {name: Counter[str]() for name in names}
    for table in vocabularies:
        for noun, *values in zip(*(column.to_pylist() for column in table.columns), strict=True):
            for name, value in zip(names, values, strict=True):
                counts[name][noun] += value
    nouns = counts["captions"].keys() | kept.keys()
    for noun in nouns:
        counts["pairs"][noun] -= counts["pairs_kept"][noun] - kept[noun]
    counts["pairs_kept"] = kept
    order = sorted(nouns, key=lambda noun: (-counts["captions"][noun], noun))
    return conform_rows([{"noun": noun, **{name: counts[name][noun] for name in names}} for noun in order], VOCABULARY)


def merge_lines(run: RunFolder, manifest: dict[str, Any], sources: Sequence[Source]) -> Iterator[str]:
    """What a merge prints at its end."""
    yield from stage_lines(manifest)
    yield ""
    yield from table_lines(manifest)
    yield ""
    if len(sources) == 1:
        yield f"the runs are one and the same ({sources[0].run.url}): its parts were copied as they are"
    left_out = sorted({table for source in sources for table in source.tables} & set(WHOLE) - set(manifest["tables"]))
    if left_out:
        without = ", ".join(source.run.url for source in sources if not set(WHOLE) <= set(source.tables))
        yield f"only PAIRS are joined: {without} has no {', '.join(left_out)}"
    scorers = sorted({weight["name"] for weight in manifest["weights"] if weight["stage"] == "match_regions"})
    if len(scorers) > 1:
        yield f"scored by {', '.join(scorers)}: cosines of different CLIPs are not comparable; the column scorer tells"
    yield f"run: {run.url}"
