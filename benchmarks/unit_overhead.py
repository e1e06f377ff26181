"""What units, parts and the manifest cost: `ovseg mine --runner plain` beside the same steps called directly.

    python -m benchmarks.unit_overhead --scenes 1000 --repeats 5

Both ways mine the same drawn scenes in one process, in turns, with models that are loaded. The direct way calls each
step's function once with all images, which is the fullest batches that there can be, holds every table in memory and
writes one Parquet file a table: no units, no parts, no hashes, no manifest. First the rows of all tables are compared:
a difference fails the benchmark, as does an overhead above MOST_OVERHEAD. Processor time is counted, which others on
the machine hardly change; the noise is the direct way's largest time over its smallest.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from ovseg_model.proposals import open_generator
from ovseg_model.scorer import open_scorer
from pipelines import draw_scenes, mine_pairs
from pipelines.extract_nouns import extract_nouns, open_rule_with_fingerprint
from pipelines.freeze_captions import SPILL_SCHEMA, freeze_rows, spilled
from pipelines.match_regions import match_regions
from pipelines.open_models import open_once
from pipelines.plan import MineOptions, Plan, plan_run
from pipelines.propose_masks import images_of, propose_masks
from pipelines.read_captions import input_files, read_rows
from pipelines.write_tables import parquet_bytes
from schemas import TABLES

MOST_OVERHEAD = 0.10

TABLES_MADE = ("captions", "nouns", "masks", "pairs")

SORTED_BY = {
    "captions": ("image_id", "caption_index"),
    "nouns": ("image_id", "caption_index", "start_char"),
    "masks": ("image_id", "mask_index"),
    "pairs": ("image_id", "caption_index", "start_char", "mask_rank"),
}
"""What tells the rows of a table apart."""


def main() -> None:
    """Measures, prints, and ends with status 1 where rows differ or the overhead is too large."""
    given = arguments()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        times = measure(Path(folder), draw(Path(folder), given.scenes), given.repeats)
    print(report(given.scenes, times))
    if given.measured:
        keep(given.measured, given.scenes, times)
    sys.exit(0 if overhead(times) <= MOST_OVERHEAD else 1)


def arguments() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where scenes and runs are made; the system's temporary folder otherwise")
    parser.add_argument("--measured", type=Path, help="JSON that keeps the figures, for docs/scale.md (scale_plan.py)")
    return parser.parse_args()


def keep(path: Path, scenes: int, times: dict[str, list[float]]) -> None:
    """Puts the times into the JSON of measured values."""
    measured = json.loads(path.read_text()) if path.exists() else {}
    rounded = {name: [round(each, 2) for each in seconds] for name, seconds in times.items()}
    measured["overhead"] = {"scenes": scenes, "cpu_s": rounded}
    path.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def draw(folder: Path, scenes: int) -> list[str]:
    """Draws scenes; returns the arguments of `ovseg mine` that mine them, as `make demo` does."""
    with contextlib.redirect_stdout(io.StringIO()):
        draw_scenes.main(["draw-scenes", "--output", str(folder / "scenes"), "--scenes", str(scenes)])
    inputs = ["--captions", str(folder / "scenes/captions.json"), "--images", str(folder / "scenes/images")]
    masks = ["--masks", "felzenszwalb", "--mask-option", "min_area_fraction=0.01"]
    return [*inputs, "--nouns", "lexicon", *masks, "--clip", "scenes", "--torch-threads", "1", "--runner", "plain"]


def measure(folder: Path, corpus: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of both ways, in turns, after one round that loads the models and compares the rows."""
    options, plan = planned(folder / "run", corpus)
    ways: dict[str, Callable[[], Any]] = {
        "direct": lambda: mine_directly(plan, options, folder / "direct"),
        "units": lambda: mine_in_units(folder / "run", corpus),
    }
    shutil.rmtree(folder / "run")
    for way in ways.values():
        way()
    require_equal_rows(folder / "direct", folder / "run")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            for made in ("direct", "run"):
                shutil.rmtree(folder / made, ignore_errors=True)
            started = time.process_time()
            way()
            times[name].append(time.process_time() - started)
    return times


def planned(run: Path, corpus: Sequence[str]) -> tuple[MineOptions, Plan]:
    """The options of a command and its plan, of which the direct way takes the models."""
    options, _ = mine_pairs.parse(["mine", *corpus, "--output", str(run)])
    with contextlib.redirect_stderr(io.StringIO()):
        return options, plan_run(mine_pairs.MAKES["mine"], options)


def mine_in_units(run: Path, corpus: Sequence[str]) -> None:
    """The command itself, from its options to its last line, on an empty folder."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mine_pairs.main(["mine", *corpus, "--output", str(run)])


def mine_directly(plan: Plan, options: MineOptions, folder: Path) -> None:
    """The same steps, each called once; one Parquet file a table."""
    read = options.read
    records = [dict(zip(SPILL_SCHEMA.names, spilled(row), strict=True)) for row in read_rows(input_files(read), read)]
    captions = freeze_rows(records, options.freeze.captions_per_image).rows
    rule, _ = open_once(open_rule_with_fingerprint, options.nouns.nouns)
    nouns = extract_nouns(captions, rule).rows
    generator = open_once(open_generator, plan.masks.generator)
    masks = propose_masks(images_of(captions), generator, options.fetch).rows
    scorer = open_once(open_scorer, plan.pairs.scorer)
    pairs = match_regions(nouns, masks, captions, scorer, options.match, options.fetch).rows
    folder.mkdir()
    for name, rows in zip(TABLES_MADE, (captions, nouns, masks, pairs), strict=True):
        (folder / f"{name}.parquet").write_bytes(parquet_bytes(rows, TABLES[name], {}))


def require_equal_rows(direct: Path, run: Path) -> None:
    """Ends the benchmark where a table differs between the two ways."""
    for name in TABLES_MADE:
        if not same_rows(ds.dataset(direct / f"{name}.parquet").to_table(), ds.dataset(run / name).to_table(), name):
            sys.exit(f"{name}: the rows of both ways differ; a time beside wrong rows means nothing")


def same_rows(rows: pa.Table, others: pa.Table, table: str) -> bool:
    """Whether two tables hold the same rows, in whatever order, bit for bit."""
    keys = [(name, "ascending") for name in SORTED_BY[table]]
    first, second = (each.replace_schema_metadata().sort_by(keys).combine_chunks() for each in (rows, others))
    return first.equals(second)


def overhead(times: dict[str, list[float]]) -> float:
    """By how much units take longer than the direct way: medians, as a share."""
    return statistics.median(times["units"]) / statistics.median(times["direct"]) - 1


def report(scenes: int, times: dict[str, list[float]]) -> str:
    """A Markdown table."""
    lines = [f"| {scenes:,} scenes | CPU-s, median | least | most |", "|---|---:|---:|---:|"]
    for name, seconds in times.items():
        lines.append(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
    share, noise = overhead(times), max(times["direct"]) / min(times["direct"]) - 1
    verdict = f"overhead {share:.1%} (wanted at most {MOST_OVERHEAD:.0%}; noise {noise:.1%}); rows are equal"
    return "\n".join([*lines, "", verdict])


if __name__ == "__main__":
    main()
