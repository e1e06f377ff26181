"""How an export's pairs came about, for its card: every stage of every run behind them, in tables and in JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipelines.exports.export_options import ExportOptions
from pipelines.exports.public_names import public_value
from pipelines.exports.selected_pairs import STAGE, SelectedPairs
from pipelines.markdown import markdown_table
from schemas.drops import REASONS, stages_in_order

CHIEF_OPTIONS = {
    "read_captions": ("captions", "captions_per_image"),
    "extract_nouns": ("nouns",),
    "propose_masks": ("masks", "mask_option", "masks_from"),
    "match_regions": ("clip", "scorer", "templates", "masks_per_noun"),
    "merge_runs": (),
    "filter_pairs": ("where", "near_duplicate_images", "near_duplicate_masks", "assign", "cap"),
    STAGE: ("format", "where"),
}
"""By stage, the options that tell most of its rows; the JSON below the tables has all."""

NOT_SAID = (None, "", 0, [], (), "none")
"""Values of an option that changes nothing, left out of the table."""

SHORT_HASH = 12
"""Digits of a run's sha256 that name it in the tables."""

EXPORT_NAME = "this export"


class StageOfRun(NamedTuple):
    """A stage, the run that it belongs to (see SHORT_HASH), what its totals count, its options and its totals."""

    run: str
    stage: str
    counts: str
    options: Mapping[str, Any]
    totals: Mapping[str, Any]


def how_it_was_made(pairs: SelectedPairs, options: ExportOptions) -> Iterator[str]:
    """The section of the card: a line a stage, a line a reason to drop, then everything in JSON."""
    manifest = pairs.manifest
    stages = list(stages_behind(pairs, options))
    yield "## How it was made\n"
    yield (
        f"A line a stage, in the order of the data. A run is named by {SHORT_HASH} digits of the sha256 of its "
        f"run.json; {pairs.run_sha256[:SHORT_HASH]} is the one that was exported. Kept + dropped = read.\n"
    )
    header = ("run", "stage", "counts", "read", "kept", "dropped", "chief options")
    yield markdown_table(header, map(stage_row, stages)) + "\n"
    yield markdown_table(("run", "stage", "reason", "dropped", "meaning"), drop_rows(stages)) + "\n"
    yield f"run.json of the run has sha256 {pairs.run_sha256}. Options of the export, and of each stage of the run:\n"
    yield json_block(
        {STAGE: options.stated(), **{stage: facts["options"] for stage, facts in manifest["stages"].items()}}
    )
    yield "Versions of what made its rows:\n"
    yield json_block(manifest["versions"])
    if manifest["sources"]:
        yield "The run was filtered or merged from these:\n"
        yield json_block(manifest["sources"])


def stages_behind(pairs: SelectedPairs, options: ExportOptions) -> Iterator[StageOfRun]:
    """The stages of all runs behind an export, those of a source before what was made of it; last the export."""
    for run_sha256, manifest in runs_behind(pairs.run_sha256, pairs.manifest).items():
        for stage in stages_in_order(manifest["stages"]):
            facts = manifest["stages"][stage]
            yield StageOfRun(run_sha256[:SHORT_HASH], stage, facts["counts"], facts["options"], facts["totals"])
    yield StageOfRun(EXPORT_NAME, STAGE, "pairs", options.stated(), pairs.tally.totals())


def runs_behind(run_sha256: str, manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Manifests by the sha256 of their run.json: each run once, sources before what was made of them, this one last."""
    runs: dict[str, Mapping[str, Any]] = {}
    for source in manifest["sources"]:
        runs |= runs_behind(source["run_sha256"], source)
    return {**runs, run_sha256: manifest}


def stage_row(each: StageOfRun) -> tuple[str, ...]:
    """A line of the table of stages."""
    read, kept, dropped = each.totals["read"], each.totals["kept"], sum(each.totals["dropped"].values())
    chief = chief_options(each.stage, each.options)
    return each.run, each.stage, each.counts, f"{read:,}", f"{kept:,}", f"{dropped:,}", chief


def chief_options(stage: str, options: Mapping[str, Any]) -> str:
    """The options that tell most of a stage's rows, as they are given to a command."""
    said = {name: options.get(name) for name in CHIEF_OPTIONS[stage] if options.get(name) not in NOT_SAID}
    return " ".join(f"--{name.replace('_', '-')} {option_text(public_value(value))}" for name, value in said.items())


def option_text(value: Any) -> str:
    """An option's value as a shell takes it."""
    return shlex.join(map(str, value if isinstance(value, list) else [value]))


def drop_rows(stages: list[StageOfRun]) -> Iterator[tuple[str, ...]]:
    """A line a reason of a stage."""
    for each in stages:
        for reason, count in each.totals["dropped"].items():
            yield each.run, each.stage, reason, f"{count:,}", REASONS[reason].meaning


def json_block(value: Any) -> str:
    """JSON with public names, in a block that no text inside can end."""
    text = json.dumps(public_value(value), indent=1, ensure_ascii=False, sort_keys=True)
    return f"```json\n{text.replace('`', chr(92) + 'u0060')}\n```\n"
