"""`--retry drops`: what was dropped for a reason that can pass is tried again, in parts that are there.

Only parts with such drops are written anew, and in them only the dropped images are computed; the rest of their rows
stays. What comes out is, byte for byte, what a run gives in which those images could be had from the start.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from urllib3.exceptions import MaxRetryError
from urllib3.util.retry import Retry

from pipelines.guarded_units import Parts, image_ids_of, joined, parts_of_images, process_guarded
from pipelines.stopwatch import Stopwatch
from pipelines.units import (
    HASH_KEY,
    TOTALS_KEY,
    PartStats,
    Step,
    StepOutput,
    StepTotals,
    drops_name,
    make_part,
    part_name,
    step_hash,
    write_output,
)
from pipelines.write_tables import RunFolder
from schemas.drops import IMAGES, PASSING

ROUNDS = 2
"""Further tries of what drops again, each after a wait; every fetch over HTTP has tries of its own besides."""

BACKOFF_S = 1.0
"""The first wait but one; each is twice the one before. The very first is none."""

STAGES_RETRIED = ("propose_masks", "match_regions")
"""The stages that read images; nouns need no network."""

PASSING_OF_IMAGES = frozenset(IMAGES) & frozenset(PASSING)
"""What a wait may mend; the death of a worker is none of it."""


def retry_part(step: Step, unit: int) -> PartStats:
    """Makes one part if it is not there, else tries its passing drops again; returns what there is then."""
    stats = make_part(step, unit, partial(process_guarded, step))
    dropped = images_to_retry(step.run, step.table, step.name, unit, json.loads(stats.totals)["dropped"])
    return stats if stats.was_made or not dropped else remake_images(step, unit, stats, dropped)


def images_to_retry(run: RunFolder, table: str, stage: str, unit: int, dropped: Collection[str]) -> set[str]:
    """The images of a part that another try may add; `dropped` are the reasons that its totals name.

    These are images with a passing drop and, in PAIRS, those that had no masks and have some now.
    """
    wanted = set(PASSING) | ({"no_masks"} if table == "pairs" else set())
    if not wanted & set(dropped):
        return set()
    drops = run.read_part(drops_name(stage, unit)).to_pylist()
    passing = {row["image_id"] for row in drops if row["reason"] in PASSING}
    return passing | (images_with_new_masks(run, unit, drops) if table == "pairs" else set())


def images_with_new_masks(run: RunFolder, unit: int, drops: Sequence[dict[str, Any]]) -> set[str]:
    """The images whose nouns were dropped for want of masks, though MASKS has them now."""
    without = {row["image_id"] for row in drops if row["reason"] == "no_masks"}
    if not without:
        return set()
    return without & set(run.read_columns(part_name("masks", unit), ("image_id",))["image_id"].to_pylist())


def remake_images(step: Step, unit: int, stats: PartStats, image_ids: set[str]) -> PartStats:
    """Computes some images of a part again and writes it, where that changed anything."""
    stopwatch = Stopwatch()
    loaded = {name: source.load_part(part) for name, (source, part) in step.inputs(unit).items()}
    parts = {name: rows for name, (rows, _) in loaded.items()}
    previous, made = previous_output(step, unit), process_in_rounds(step, unit, parts, image_ids)
    if not made.kept and drop_keys(made.drops) == drop_keys(drops_of(previous, image_ids)):
        return stats
    output = joined(step.table, image_ids_of(parts), [without_images(previous, image_ids), made])
    hash_ = step_hash(step, {name: footer[HASH_KEY] for name, (_, footer) in loaded.items()})
    part, drops, totals = write_output(step, unit, output, hash_)
    spent = stopwatch.read()
    return PartStats(step.name, step.table, unit, *part.counts, *drops.counts, totals, True, spent, hash_)


def previous_output(step: Step, unit: int) -> StepOutput:
    """What the step made of a unit the last time."""
    rows, footer = step.run.load_part(part_name(step.table, unit))
    totals = StepTotals(**json.loads(footer[TOTALS_KEY]))
    drops = step.run.read_part(drops_name(step.name, unit)).to_pylist()
    return StepOutput(rows, drops, totals.read, totals.kept, totals.measured)


def process_in_rounds(step: Step, unit: int, parts: Parts, image_ids: set[str]) -> StepOutput:
    """What a step makes of some images; those that drop for a passing reason get further tries, with back-off."""
    policy: Retry | None = Retry(total=ROUNDS, backoff_factor=BACKOFF_S)
    outputs: list[StepOutput] = []
    while image_ids and policy:
        output = process_guarded(step, unit, parts_of_images(parts, image_ids))
        image_ids = {row["image_id"] for row in output.drops if row["reason"] in PASSING_OF_IMAGES}
        policy = next_try(policy) if image_ids else policy
        outputs.append(without_images(output, image_ids) if policy else output)
    return joined(step.table, image_ids_of(parts), outputs)


def next_try(policy: Retry) -> Retry | None:
    """The policy for one try more, after its wait; None when there is none."""
    try:
        policy = policy.increment()
    except MaxRetryError:
        return None
    policy.sleep()
    return policy


def without_images(output: StepOutput, image_ids: Collection[str]) -> StepOutput:
    """An output without images of which it kept nothing."""
    dropped = drops_of(output, image_ids)
    drops = [row for row in output.drops if row["image_id"] not in image_ids]
    return output._replace(drops=drops, read=output.read - len(dropped))


def drops_of(output: StepOutput, image_ids: Collection[str]) -> list[dict[str, Any]]:
    """The drops of some images."""
    return [row for row in output.drops if row["image_id"] in image_ids]


def drop_keys(drops: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What is compared of drops: which record, and why; the words may name a time."""
    return sorted((row["key"], row["reason"]) for row in drops)


def may_pass(manifest: dict[str, Any]) -> dict[str, int]:
    """How many records of a finished run were dropped by each reason that can pass, where that is tried again."""
    stages = [facts["totals"]["dropped"] for name, facts in manifest["stages"].items() if name in STAGES_RETRIED]
    counts = {reason: sum(dropped.get(reason, 0) for dropped in stages) for reason in PASSING}
    return {reason: count for reason, count in counts.items() if count}


def unsettled_units(run: RunFolder, units: Collection[int]) -> list[int]:
    """The units whose PAIRS do not know yet what a retry added to their MASKS."""
    names = set(run.names("drops"))
    known = [unit for unit in units if drops_name("match_regions", unit).split("/")[1] in names]
    parts = ((unit, run.read_part(drops_name("match_regions", unit)).to_pylist()) for unit in known)
    return [unit for unit, drops in parts if images_with_new_masks(run, unit, drops)]
