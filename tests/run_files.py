"""What two runs must have in common."""

import hashlib
import json
from pathlib import Path

UNPROMISED = ("timings.json", "report.html")


def files_of(run):
    """sha256 of every file of a run that the promise of equal bytes covers, by its path in the run."""
    paths = [path for path in Path(run).rglob("*") if path.is_file()]
    names = {path.relative_to(run).as_posix(): path for path in paths}
    promised = {name: path for name, path in names.items() if not path.name.startswith(".") and name not in UNPROMISED}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(promised.items())}


def parts_of(run, table):
    """The part files of one table."""
    return {name: sha256 for name, sha256 in files_of(run).items() if name.startswith(f"{table}/")}


def manifest_of(run):
    """run.json."""
    return json.loads((Path(run) / "run.json").read_text())


def made_of(run):
    """How many parts each stage made in the last command."""
    stages = json.loads((Path(run) / "timings.json").read_text())["stages"]
    return {stage: facts["parts_made"] for stage, facts in stages.items()}
