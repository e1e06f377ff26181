"""A finished run that a verb reads: its folder, and what run.json says of it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pipelines.write_tables import RUN_FILE, SUCCESS_FILE, RunFolder, run_folder_at, stamp
from schemas import TABLES, UserError
from schemas.run import check_run


class FinishedRun(NamedTuple):
    """The folder of a finished run, its run.json, and the sha256 of that file (hex), by which the run is known."""

    run: RunFolder
    manifest: dict[str, Any]
    run_sha256: str


def open_finished_run(url: str, option: str, writable: bool = False) -> FinishedRun:
    """A finished run by its path or URL, which `option` named; `writable` where something is put into it.

    Raises:
        UserError: there is none, or one of another release.
    """
    run = run_folder_at(url, option, writable)
    if not run.has(RUN_FILE) or not run.has(SUCCESS_FILE):
        raise UserError(
            f"{option} {url}: there is no finished run; mine it first with ovseg mine --output {url}, or give the "
            "command that began it once more"
        )
    data = run.read(RUN_FILE)
    try:
        manifest = check_run(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{option} {url}: run.json is not one of this release ({error}); mine the run again") from error
    for table, facts in manifest["tables"].items():
        if facts["version"] != TABLES[table].version:
            raise UserError(
                f"{option} {url}: wanted version {TABLES[table].version} of its {table} table, got {facts['version']}; "
                "mine the run again with this release"
            )
    return FinishedRun(run, manifest, stamp(data).sha256)


def open_run_with_pairs(url: str, option: str, writable: bool = False) -> FinishedRun:
    """The same of a run that must have PAIRS.

    Raises:
        UserError: there is none, one of another release, or it has no PAIRS.
    """
    finished = open_finished_run(url, option, writable)
    if "pairs" not in finished.manifest["tables"]:
        raise UserError(f"{option} {url}: the run has no PAIRS; make them with ovseg match --output {url}")
    return finished
