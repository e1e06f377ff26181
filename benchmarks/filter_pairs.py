"""`ovseg filter` on a million PAIRS rows: seconds and memory of the command as a user gives it, on one core.

    python -m benchmarks.filter_pairs --output docs/filter_speed.md

The rows are made up, by part, from a seed: masks with RLEs of about 200 bytes, three runner-up masks a row, four nouns
an image, nouns as frequent as Zipf's law has it. A part holds 64 images, as one of a mined run. Each command runs once,
in a process of its own that may use one processor. Seconds are of the wall, from start to exit, report.html included,
and of that processor, which other programs may share; memory is the process's largest resident set. A command fails
above MOST_SECONDS (60) of the wall or MOST_BYTES (2 GB).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ovseg_model import rle
from pipelines.match_regions import match_nouns
from pipelines.units import Units, part_name
from pipelines.write_tables import RUN_FILE, SUCCESS_FILE, RunFolder
from schemas import PAIRS, conform_rows
from schemas.examples import example_rows
from schemas.run import RUN_FORMAT

MOST_SECONDS = 60.0
MOST_BYTES = 2e9

IMAGES_PER_PART = 64
NOUNS_PER_IMAGE = 4
MASKS_PER_IMAGE = 10
HEIGHT, WIDTH = 480, 640
TEMPLATES = 16
"""Parts whose masks and ranks all others take over; ids, hashes and nouns are each part's own."""

VOCABULARY_SIZE = 20_000

COMMANDS = {
    "where and cap": ("--where", "margin > 0.005 and not abstract", "--cap", "1000"),
    "where, cap and mutual": ("--where", "margin > 0.02 and not abstract", "--cap", "1000", "--assign", "mutual"),
    "mutual": ("--assign", "mutual"),
    "hungarian": ("--assign", "hungarian"),
    "near-duplicate images": ("--near-duplicate-images", "6"),
    "all at once": (
        *("--where", "cosine > 0.2 and not abstract", "--near-duplicate-images", "6"),
        *("--near-duplicate-masks", "0.9", "--assign", "hungarian", "--cap", "1000"),
    ),
}


class Measured(NamedTuple):
    """What a command took and what it kept."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    kept: int

    @property
    def holds(self) -> bool:
        """Whether both bars are kept."""
        return self.seconds <= MOST_SECONDS and self.peak_bytes <= MOST_BYTES


# The made-up run.


def make_run(folder: Path, images: int) -> int:
    """Writes a finished run that has PAIRS only; returns its rows."""
    run = RunFolder(str(folder))
    templates = [template(seed) for seed in range(TEMPLATES)]
    count = -(-images // IMAGES_PER_PART)
    parts = []
    for unit in range(count):
        rows = vary(templates[unit % TEMPLATES], unit)
        file = run.write_part(part_name("pairs", unit), rows, PAIRS, {}, durable=False)
        facts = {"path": part_name("pairs", unit), "rows": rows.num_rows}
        parts.append({**facts, "bytes": file.size_bytes, "sha256": file.sha256})
    units = Units("hash", count, count * IMAGES_PER_PART, "0" * 64, {})
    units.save(run)
    rows = sum(part["rows"] for part in parts)
    table = {"version": PAIRS.version, "rows": rows, "parts": parts}
    manifest = {"format": RUN_FORMAT, "units": asdict(units), "stages": {}, "tables": {"pairs": table}}
    manifest |= {"weights": [], "sources": [], "versions": {}, "meaningless": False}
    run.write_json(RUN_FILE, manifest)
    run.write(SUCCESS_FILE, b"")
    return rows


def template(seed: int) -> pa.Table:
    """The PAIRS rows of one part, matched as a miner matches."""
    randoms = np.random.default_rng(seed)
    return conform_rows([row for image in range(IMAGES_PER_PART) for row in image_rows(image, randoms)], PAIRS)


def image_rows(image: int, randoms: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Rows of one image: some masks suit all nouns better than others, so that nouns compete for them."""
    masks = [draw_mask(randoms) for _ in range(MASKS_PER_IMAGE)]
    cosines_NM = randoms.normal(0.25, 0.02, (NOUNS_PER_IMAGE, MASKS_PER_IMAGE))
    cosines_NM = (cosines_NM + randoms.normal(0, 0.02, MASKS_PER_IMAGE)).astype(np.float32)
    example = example_rows(PAIRS, 1).to_pylist()[0]
    for scored, runners in match_nouns(cosines_NM, 1, 3, 3):
        scores = [
            {
                **masks[each.mask],
                "mask_index": each.mask,
                "cosine": each.cosine,
                "probability": each.probability,
                "noun_rank": each.noun_rank,
                "margin": each.margin,
                "runner_up_nouns": [{"noun": f"noun {n}", "cosine": cosine} for n, cosine in each.runner_up_nouns],
            }
            for each in (scored, *runners)
        ]
        yield (
            example
            | scores[0]
            | {
                "image_id": f"{image:04d}",
                "height": HEIGHT,
                "width": WIDTH,
                "caption_index": scored.noun,
                "caption": "a caption as long as captions of photographs are, ten words",
                "mask_rank": scored.mask_rank,
                "runner_up_masks": scores[1:],
                "abstract": bool(randoms.random() < 0.1),
            }
        )


def draw_mask(randoms: np.random.Generator) -> dict[str, Any]:
    """A blob with a rough edge, about 200 bytes of RLE: one run in each of some 70 columns."""
    columns, height = int(randoms.integers(55, 85)), float(randoms.integers(60, 200))
    left, top = int(randoms.integers(0, WIDTH - columns)), int(randoms.integers(110, HEIGHT - 110))
    half_C = (height / 2) * np.sqrt(1 - np.linspace(-0.98, 0.98, columns) ** 2)
    starts_C = (top - half_C + randoms.integers(-3, 4, columns)).astype(int)
    ends_C = np.maximum(starts_C + 1, (top + half_C + randoms.integers(-3, 4, columns)).astype(int))
    first_C = (left + np.arange(columns)) * HEIGHT
    edges = np.column_stack([first_C + starts_C, first_C + ends_C]).ravel()
    (mask,) = rle.encode_runs([np.diff(edges, prepend=0, append=HEIGHT * WIDTH)], HEIGHT, WIDTH)
    box = [left, int(starts_C.min()), columns, int(ends_C.max() - starts_C.min())]
    return {"mask": mask, "box_xywh_px": box, "area_px": int((ends_C - starts_C).sum())}


def vary(rows: pa.Table, unit: int) -> pa.Table:
    """The rows of a template as those of another part."""
    randoms = np.random.default_rng(1000 + unit)
    ids = [hashlib.sha256(f"{unit} {image}".encode()).hexdigest() for image in range(IMAGES_PER_PART)]
    image_N = np.array([int(image) for image in rows["image_id"].to_pylist()])
    changed = {
        "image_id": [f"{unit:06d}-{image:04d}" for image in image_N],
        "image_sha256": [ids[image] for image in image_N],
        "image_phash": [ids[image][:16] for image in image_N],
        "pair_id": [randoms.bytes(16).hex() for _ in image_N],
        "noun": [f"noun {rank}" for rank in randoms.zipf(1.3, len(image_N)) % VOCABULARY_SIZE],
    }
    for name, values in changed.items():
        field = PAIRS.schema.field(name)
        rows = rows.set_column(PAIRS.schema.names.index(name), field, pa.array(values, field.type))
    return rows


# Measuring.


def measure(run: Path, output: Path, command: Sequence[str]) -> Measured:
    """Runs `ovseg filter` in a process of its own, on one processor."""
    started = time.monotonic()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "pipelines", "filter", str(run), *command, "--output", str(output)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"{' '.join(command)}: the command failed")
    kept = json.loads((output / RUN_FILE).read_text())["tables"]["pairs"]["rows"]
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Measured(seconds, cpu_seconds, usage.ru_maxrss * 1024, kept)


def table(rows: int, measured: dict[str, Measured]) -> str:
    """Markdown: a row a command."""
    lines = ["| command | kept of " + f"{rows:,}" + " | wall, s | CPU, s | peak, MB |", "|---|---:|---:|---:|---:|"]
    for name, each in measured.items():
        options = " ".join(f'"{part}"' if " " in part else part for part in COMMANDS[name])
        figures = f"{each.seconds:.1f} | {each.cpu_seconds:.1f} | {each.peak_bytes / 1e6:,.0f}"
        lines.append(f"| `{options}` | {each.kept:,} | {figures} |")
    return "\n".join(lines)


def verdict(measured: dict[str, Measured]) -> str:
    """How many commands are above a bar, in a sentence."""
    failed = sum(not each.holds for each in measured.values())
    return f"Above a bar: {failed} of {len(measured)}." if failed else "All keep both bars."


def page(rows: int, measured: dict[str, Measured], load: float, processors: int) -> str:
    """The page below its heading: what is measured how, the figures, and whether the machine was quiet."""
    said = f"Load average {load:.1f} of {processors} processors at the end"
    shared = (
        ": other programs took turns on the processor, and quiet cores need less of both seconds"
        if load > processors
        else ""
    )
    return f"{__doc__}\n{table(rows, measured)}\n\n{verdict(measured)}\n{said}{shared}."


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, writes the page; ends with status 1 above a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=250_000, help="images of the made-up run, four pairs each")
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), help="commands to time")
    parser.add_argument("--folder", help="where runs are made; the system's temporary folder otherwise")
    parser.add_argument("--output", type=Path, help="file for the page")
    given = parser.parse_args(argv)
    # Children inherit it: pyarrow takes as many threads as it may use processors.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = make_run(Path(folder, "run"), given.images)
        for name in given.only:
            measured[name] = measure(Path(folder, "run"), Path(folder, name.replace(" ", "-")), COMMANDS[name])
            print(f"{name}: {measured[name]}", flush=True)
    text = page(rows, measured, os.getloadavg()[0], os.cpu_count() or 1)
    print(text)
    if given.output:
        given.output.write_text(f"# Speed of `ovseg filter`\n\n{text}\n", encoding="utf-8")
    sys.exit(0 if all(each.holds for each in measured.values()) else 1)


if __name__ == "__main__":
    main()
