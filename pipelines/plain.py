"""The same steps as plain loops, without Beam: the reference that every engine must equal."""

from __future__ import annotations

from typing import Any

from pipelines.manifest import finish_run
from pipelines.plan import Plan
from pipelines.units import PartStats, StoredTable, make_part, stored_part


def run_plain(plan: Plan) -> dict[str, Any]:
    """Makes every part of the plan, table by table and unit by unit, in this process; returns the manifest."""
    stats = [run_unit(step, unit) for step in plan.steps for unit in range(plan.units.count)]
    return finish_run(plan.run, plan.units, plan.stages, stats)


def run_unit(step: Any, unit: int) -> PartStats:
    """Makes one part, or counts it where its table is stored."""
    return stored_part(step, unit) if isinstance(step, StoredTable) else make_part(step, unit)
