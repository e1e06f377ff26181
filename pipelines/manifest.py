"""The end of a run: VOCABULARY, run.json, timings.json and, last of all, _SUCCESS, written by one element."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipelines.part_facts import HASH_KEY, FileStamp, NotedPart, note_parts
from pipelines.stopwatch import SECONDS
from pipelines.units import PartStats, StepTotals, Units, drops_name, part_name, sum_totals
from pipelines.versions import versions
from pipelines.write_tables import (
    EXAMPLES_FILE,
    PART_NAME,
    PLANNED_FILE,
    RETRY_FILE,
    RUN_FILE,
    SHARDS_FILE,
    SUCCESS_FILE,
    TIMINGS_FILE,
    UNFINISHED_FOLDER,
    RunFolder,
)
from schemas import TABLES, VOCABULARY, conform_rows
from schemas.drops import STAGES
from schemas.run import RUN_FORMAT, check_run

TABLES_IN_ORDER = list(TABLES)

NOTED_TIMINGS = f"{UNFINISHED_FOLDER}/timings"
"""Where shards note what they made, a file each."""

Timings = dict[str, Any]
"""As timings.json."""

COUNTING_VERSION = 1
"""Of how VOCABULARY is counted; another one counts anew."""


@dataclass(frozen=True)
class StageFacts:
    """What run.json says of a stage beside its totals."""

    counts: str
    options: dict[str, Any]
    fingerprint: dict[str, Any]
    weights: tuple[dict[str, Any], ...] = ()
    meaningless: bool = False


def finish_run(
    run: RunFolder, units: Units, stages: dict[str, StageFacts], stats: Sequence[PartStats]
) -> dict[str, Any]:
    """Writes what describes the whole run, from the stats of all its parts; returns the manifest.

    Doing it twice writes the same bytes twice, timings aside.
    """
    stats = sorted(stats, key=lambda each: (TABLES_IN_ORDER.index(each.table), each.unit))
    of_shards = noted_timings(run)
    remove_unlisted(run, stages)
    run.remove_fragments()
    tables = {table: table_facts(table, list(parts)) for table, parts in groupby(stats, key=lambda each: each.table)}
    tables["drops"] = drops_facts(stats)
    if "nouns" in tables:
        tables["vocabulary"] = vocabulary_facts(run, units.count, stats)
    manifest = check_run(
        {
            "format": RUN_FORMAT,
            "units": asdict(units),
            "stages": {name: stage_facts(facts, name, stats) for name, facts in stages.items()},
            "tables": tables,
            "weights": [weight for facts in stages.values() for weight in facts.weights],
            "sources": sources_before(run, units),
            "versions": versions(),
            "meaningless": any(facts.meaningless for facts in stages.values()),
        }
    )
    run.write_json(TIMINGS_FILE, timings(stats, of_shards))
    run.write_json(RUN_FILE, manifest)
    note_parts(run, noted_parts(manifest, stats))
    for name in (RETRY_FILE, SHARDS_FILE, PLANNED_FILE):
        run.remove(name)
    run.write(SUCCESS_FILE, b"")
    return manifest


def sources_before(run: RunFolder, units: Units) -> list[dict[str, Any]]:
    """The runs that a merged run was made of, when tables of it are made anew; a mined run has none."""
    before = run.read_json(RUN_FILE) if run.has(RUN_FILE) else {}
    is_same_input = before.get("units", {}).get("input_sha256") == units.input_sha256
    return before.get("sources", []) if is_same_input else []


def noted_parts(manifest: dict[str, Any], stats: Sequence[PartStats]) -> Iterator[NotedPart]:
    """What the next command need not read again; VOCABULARY goes by the parts that it was counted over."""
    for each in stats:
        part = (each.rows, each.size_bytes, each.sha256, each.step_hash)
        yield NotedPart(part_name(each.table, each.unit), *part, each.totals)
        drops = (each.drops_rows, each.drops_size_bytes, each.drops_sha256, each.step_hash)
        yield NotedPart(drops_name(each.stage, each.unit), *drops, None)
    for part in manifest["tables"].get("vocabulary", {"parts": ()})["parts"]:
        yield NotedPart(part["path"], part["rows"], part["bytes"], part["sha256"], counted_over(stats), None)


def remove_unlisted(run: RunFolder, stages: Collection[str]) -> None:
    """Removes what a run does not list any more: a glob must not find what is stale.

    That is PAIRS whose nouns or masks were made anew without them, and the drops of stages that are gone, of the
    merging too once the merged run's PAIRS are made anew.
    """
    gone = set(STAGES) - set(stages)
    pairs = [name for name in run.names("pairs") if PART_NAME.fullmatch(name)] if "match_regions" in gone else []
    drops = [name for name in run.names("drops") if (part := PART_NAME.fullmatch(name)) and part[2] in gone]
    for name in [*(f"pairs/{name}" for name in pairs), *(f"drops/{name}" for name in drops)]:
        run.remove(name)
    if pairs:
        run.remove(EXAMPLES_FILE)


def stage_facts(facts: StageFacts, stage: str, stats: Iterable[PartStats]) -> dict[str, Any]:
    """What run.json says of one stage."""
    totals = sum_totals([StepTotals(**json.loads(each.totals)) for each in stats if each.stage == stage])
    return {
        "counts": facts.counts,
        "options": facts.options,
        "fingerprint": facts.fingerprint,
        "totals": totals.as_dict(),
    }


def table_facts(table: str, stats: Sequence[PartStats]) -> dict[str, Any]:
    """What run.json says of one table."""
    parts = [
        part_facts(part_name(table, each.unit), each.rows, FileStamp(each.size_bytes, each.sha256)) for each in stats
    ]
    return {"version": TABLES[table].version, "rows": sum(part["rows"] for part in parts), "parts": parts}


def drops_facts(stats: Sequence[PartStats]) -> dict[str, Any]:
    """What run.json says of DROPS: a part a stage and unit."""
    parts = [
        part_facts(
            drops_name(each.stage, each.unit), each.drops_rows, FileStamp(each.drops_size_bytes, each.drops_sha256)
        )
        for each in stats
    ]
    parts.sort(key=lambda part: part["path"])
    return {"version": TABLES["drops"].version, "rows": sum(part["rows"] for part in parts), "parts": parts}


def part_facts(path: str, rows: int, file: FileStamp) -> dict[str, Any]:
    """What run.json says of one part."""
    return {"path": path, "rows": rows, "bytes": file.size_bytes, "sha256": file.sha256}


def vocabulary_facts(run: RunFolder, units: int, stats: Sequence[PartStats]) -> dict[str, Any]:
    """What run.json says of VOCABULARY, which is counted unless it was, over these very parts."""
    name = part_name("vocabulary", 0)
    known = run.known.get(name)
    if not known or known.footer[HASH_KEY] != counted_over(stats):
        return write_vocabulary(run, units, any(each.table == "pairs" for each in stats))
    facts = part_facts(name, known.rows, known.stamp)
    return {"version": VOCABULARY.version, "rows": known.rows, "parts": [facts]}


def counted_over(stats: Sequence[PartStats]) -> str:
    """sha256 over what VOCABULARY is made of: how it is counted, and the parts of NOUNS and PAIRS, in hex."""
    parts = [(each.table, each.unit, each.sha256) for each in stats if each.table in ("nouns", "pairs")]
    return hashlib.sha256(json.dumps([VOCABULARY.version, COUNTING_VERSION, parts]).encode()).hexdigest()


def write_vocabulary(run: RunFolder, units: int, with_pairs: bool) -> dict[str, Any]:
    """Counts every noun over the written tables into VOCABULARY; memory grows with distinct nouns only."""
    captions, images, pairs = Counter[str](), Counter[str](), Counter[str]()
    for unit in range(units):
        nouns = run.read_columns(part_name("nouns", unit), ("noun", "image_id", "caption_index"))
        captions.update(count_distinct(nouns, ["noun", "image_id", "caption_index"]))
        images.update(count_distinct(nouns, ["noun", "image_id"]))
        if with_pairs:
            pairs.update(run.read_columns(part_name("pairs", unit), ("noun",))["noun"].to_pylist())
    rows = conform_rows(list(vocabulary_rows(captions, images, pairs)), VOCABULARY)
    name = part_name("vocabulary", 0)
    file = run.write_part(name, rows, VOCABULARY, {})
    return {
        "version": VOCABULARY.version,
        "rows": rows.num_rows,
        "parts": [part_facts(name, rows.num_rows, file)],
    }


def count_distinct(rows: pa.Table, columns: list[str]) -> dict[str, int]:
    """For each value of the first column, how many distinct rows of `columns` have it."""
    distinct = rows.select(columns).group_by(columns).aggregate([])
    return Counter(distinct[columns[0]].to_pylist())


def vocabulary_rows(
    captions: Counter[str], images: Counter[str], pairs: Counter[str], pairs_kept: Counter[str] | None = None
) -> Iterator[dict[str, Any]]:
    """VOCABULARY rows, the most named noun first; `pairs_kept` is what a cap left of `pairs`, if there was one."""
    for noun in sorted(captions, key=lambda noun: (-captions[noun], noun)):
        yield {
            "noun": noun,
            "captions": captions[noun],
            "images": images[noun],
            "pairs": pairs[noun],
            "pairs_kept": (pairs if pairs_kept is None else pairs_kept)[noun],
        }


def timings(stats: Iterable[PartStats], of_shards: Sequence[Timings] = ()) -> Timings:
    """Seconds and parts by stage and facts of the host: outside the promise of equal bytes.

    What shards made, by the timings that they noted, counts as made here; their hosts are named.
    """
    host = {"platform": platform.platform(), "cpus": os.cpu_count(), "processor": platform.machine()}
    by_stage = groupby(sorted(stats, key=lambda each: STAGES.index(each.stage)), key=lambda each: each.stage)
    stages = {stage: stage_timings(list(parts)) for stage, parts in by_stage}
    for shard in of_shards:
        for stage in stages.keys() & shard["stages"].keys():
            stages[stage] = with_shard(stages[stage], shard["stages"][stage])
    hosts = {"hosts_of_shards": [shard["host"] for shard in of_shards]} if of_shards else {}
    return {"stages": stages, "host": host, **hosts}


def stage_timings(parts: Sequence[PartStats]) -> dict[str, Any]:
    """What the parts of one stage took, those that were made."""
    made = [each for each in parts if each.was_made]
    seconds = {key: round(sum(getattr(each.spent, name) for each in made), 3) for key, name in SECONDS.items()}
    return {"parts_made": len(made), "parts_there": len(parts) - len(made), **seconds}


def with_shard(here: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
    """A stage's timings with those of a shard, whose parts are no longer only there."""
    added = {key: round(here[key] + shard[key], 3) for key in here.keys() - {"parts_there"}}
    return {**added, "parts_there": max(0, here["parts_there"] - shard["parts_made"])}


def note_timings(run: RunFolder, shard: int, stats: Iterable[PartStats]) -> None:
    """Notes what a shard made until the run is finished, beside what it had made before it was started again."""
    name = f"{NOTED_TIMINGS}/{shard:05d}.json"
    before = [run.read_json(name)] if run.has(name) else []
    run.write_json(name, timings(stats, before))


def noted_timings(run: RunFolder) -> list[Timings]:
    """The timings that shards noted."""
    return [run.read_json(f"{NOTED_TIMINGS}/{name}") for name in run.names(NOTED_TIMINGS)]
