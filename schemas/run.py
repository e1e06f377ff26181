"""run.json, the manifest: what a run was asked for, what it is made of, and what it holds."""

from __future__ import annotations

from typing import Any

from schemas.conform import SchemaError

RUN_FORMAT = 2

RUN_KEYS = {
    "format": "version of this layout",
    "units": "how the input was cut: scheme (hash of image_id, or shards), count, images, sha256 over the input",
    "stages": "by stage: the options it ran with, its fingerprint (what decides its rows), what its totals count, and "
    "the totals: read, kept, dropped by reason, and what else was measured, where something was",
    "tables": "by table: version, rows, and every part with path, rows, bytes and sha256; this list, not a glob, "
    "defines the data set",
    "weights": "every weight file: stage, name, sha256, bytes, and its licence where it is known",
    "sources": "the runs that this one was filtered or merged from: of each the sha256 of its run.json, and what that "
    "says without its parts; empty for a run that was mined",
    "versions": "of Python and of the packages that touch the rows",
    "meaningless": "true when a scorer's weights were random: for plumbing, never for training",
}
"""The keys of run.json and what they hold. Clock, host, runner and speeds stand in timings.json instead."""


def check_run(run: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest that keeps the contract.

    Raises:
        SchemaError: a key is missing or unknown, totals do not add up, or parts do not sum to their table.
    """
    if run.keys() != RUN_KEYS.keys():
        missing, unknown = RUN_KEYS.keys() - run.keys(), run.keys() - RUN_KEYS.keys()
        raise SchemaError(f"run.json: missing keys {sorted(missing)}, unknown keys {sorted(unknown)}")
    if run["format"] != RUN_FORMAT:
        raise SchemaError(f"run.json: wanted format {RUN_FORMAT}, got {run['format']}; it is of another release")
    for stage, facts in run["stages"].items():
        _check_totals(stage, facts["totals"])
    for table, facts in run["tables"].items():
        _check_rows(table, facts)
    return run


def _check_totals(stage: str, totals: dict[str, Any]) -> None:
    dropped = sum(totals["dropped"].values())
    if totals["kept"] + dropped != totals["read"]:
        raise SchemaError(
            f"run.json, stage {stage}: kept {totals['kept']} and dropped {dropped} are not the {totals['read']} read"
        )


def _check_rows(table: str, facts: dict[str, Any]) -> None:
    rows = sum(part["rows"] for part in facts["parts"])
    if rows != facts["rows"]:
        raise SchemaError(f"run.json, table {table}: wanted {facts['rows']} rows, its parts have {rows}")
