"""The same steps as plain loops, without Beam: the reference that every engine must equal."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipelines.guarded_units import forget_attempts, process_guarded
from pipelines.plan import Plan
from pipelines.retry_drops import retry_part
from pipelines.shards import end_plan
from pipelines.units import PartStats, StoredTable, make_part, stored_part


def run_plain(plan: Plan) -> dict[str, Any] | None:
    """Makes every part of the plan, table by table and unit by unit, in this process.

    Returns the manifest, or None for a shard, which leaves that to `--finish`.
    """
    stats = [run_unit(step, unit) for step in plan.steps for unit in plan.unit_numbers]
    return end_plan(plan, stats)


def run_unit(step: Any, unit: int) -> PartStats:
    """Makes one part, tries its drops again where that is asked for, or counts it where its table is stored."""
    if isinstance(step, StoredTable):
        return stored_part(step, unit)
    retries = getattr(step, "retries_drops", False)
    stats = retry_part(step, unit) if retries else make_part(step, unit, partial(process_guarded, step))
    if stats.was_made:
        forget_attempts(step, unit)
    return stats
