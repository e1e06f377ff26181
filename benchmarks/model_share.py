"""The share of a mining run's seconds that its models get: mask generator and CLIP, with what they cut and encode.

    python -m benchmarks.model_share --output docs/model_share.md

Drawn scenes are mined as `make demo` does, by plain loops in this process, with models that a first run has loaded.
What a run itself notes in timings.json is read: for propose_masks and match_regions together, seconds in models over
all seconds; the rest is waiting for images, tables, and the steps' own work. On device are those in which the models'
device works; it stands idle for the rest unless several units are made side by side. (Felzenszwalb's masks are work of
the host, and have no device.) First the files of two runs must be equal; a run below the bar exits with 1 and
writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results import SHARE, note
from benchmarks.unit_overhead import draw, mine_in_units

STAGES = ("propose_masks", "match_regions")
BAR, GOAL = 0.85, 0.95


def main() -> None:
    """Mines, compares, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5, help="runs that count; the median does")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(Path(folder), given.scenes, given.repeats)
    note("share of seconds in models", "all seconds of both stages", median_share(runs), BAR, GOAL, SHARE)
    text = page(given.scenes, runs)
    print(text)
    if median_share(runs) < BAR:
        sys.exit(f"benchmark failed: wanted {BAR:.0%} of the seconds in models or more, got {median_share(runs):.1%}")
    if given.output:
        given.output.write_text(text)


def measure(folder: Path, scenes: int, repeats: int) -> list[dict[str, Any]]:
    """The stages of each run's timings, after one run that loads the models."""
    corpus = draw(folder, scenes)
    warm, run = folder / "warm", folder / "run"
    with contextlib.redirect_stderr(io.StringIO()):
        mine_in_units(warm, corpus)
    runs = []
    for _ in range(repeats):
        shutil.rmtree(run, ignore_errors=True)
        mine_in_units(run, corpus)
        if tables_sha256(run) != tables_sha256(warm):
            sys.exit("benchmark failed: two runs of one corpus differ; a time beside wrong rows means nothing")
        runs.append(json.loads((run / "timings.json").read_text())["stages"])
    return runs


def tables_sha256(run: Path) -> dict[str, str]:
    """sha256 of every part of a run, by its path in the run."""
    parts = sorted(run.glob("*/part-*.parquet"))
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}


def share(stages: dict[str, Any], key: str = "seconds_in_models") -> float:
    """Of the seconds of both stages, those of a kind."""
    whole = sum(stages[stage]["seconds_in_made_parts"] for stage in STAGES)
    return sum(stages[stage][key] for stage in STAGES) / whole


def median_share(runs: list[dict[str, Any]]) -> float:
    """The median over runs."""
    return statistics.median(map(share, runs))


def page(scenes: int, runs: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    shares, images = sorted(map(share, runs)), [share(run, "seconds_for_images") for run in runs]
    lines = [
        f"# How much of a run is models\n\n{__doc__}",
        "| stage | seconds, median | in models | on device | for images |",
    ]
    lines.append("|---|---:|---:|---:|---:|")
    for stage in STAGES:
        of_stage = [run[stage] for run in runs]
        seconds = statistics.median(each["seconds_in_made_parts"] for each in of_stage)
        parts = [
            statistics.median(each[key] / each["seconds_in_made_parts"] for each in of_stage)
            for key in ("seconds_in_models", "seconds_on_device", "seconds_for_images")
        ]
        lines.append(f"| {stage} | {seconds:.2f} | {' | '.join(f'{part:.1%}' for part in parts)} |")
    verdict = (
        f"{scenes} scenes, {len(runs)} runs of equal bytes, {os.cpu_count()} processors: of both stages' seconds "
        f"{statistics.median(shares):.1%} in models ({shares[0]:.1%} to {shares[-1]:.1%}; bar {BAR:.0%}, goal "
        f"{GOAL:.0%}), {statistics.median(images):.1%} waiting for images."
    )
    return "\n".join([*lines, "", verdict]) + "\n"


if __name__ == "__main__":
    main()
