"""A run of a million image references with stand-ins for the models: what needs no GPU, at the size that matters.

    python -m benchmarks.scale_simulation --images 1000000 --folder FOLDER --measured benchmarks/scale_measured.json

Every command runs in a process of its own (see fake_steps.py): planning, the run, the same again without its _SUCCESS,
on Beam, with a tenth of its pairs gone, and finished. It fails when one takes more memory or time than BARS allow, when
a resumed run makes what is there, or when its run.json differs. `--clock cpu` holds processor time against the bars,
for a machine that others use too. `--measured` keeps the figures, from which scale_plan.py writes docs/scale.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import fake_steps
from benchmarks.scale_plan import read_measured, rewrite
from pipelines.write_tables import RUN_FILE, SUCCESS_FILE, TIMINGS_FILE, open_run_folder
from schemas import TABLES

MOST_MIB = 2_000_000_000 / 2**20
"""2 GB, for every command."""

BARS = {"plan": 120.0, "resume": 60.0, "resume on Beam": 60.0}
"""Seconds that a command may take."""

NOUNS = 30_000
"""Distinct nouns; about what Heaps' law expects of a million COCO captions."""

ROWS_PER_BATCH = 100_000

METHODS = {"exists": "HEAD", "info": "HEAD", "ls": "LIST", "cat_file": "GET", "pipe_file": "PUT", "rm_file": "DELETE"}
"""Calls of a file system, and the request that an object store sees."""


@dataclass(frozen=True)
class Measured:
    """One command: wall and processor seconds from its start to its end, and the peak of its resident memory."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def main() -> None:
    """Simulates, prints, and ends with status 1 where a bar was missed."""
    given = arguments()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="scale-") as folder:
        commands, facts = simulate(Path(folder), given.images)
    print(json.dumps({"commands": {name: asdict(each) for name, each in commands.items()}, **facts}, indent=2))
    if given.measured:
        keep(Path(given.measured), given, commands, facts)
    if given.page:
        rewrite_page(Path(given.page))
    missed = missed_bars(commands, given.clock)
    print("\n".join(missed) or "every bar is kept")
    sys.exit(1 if missed else 0)


def arguments() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the run is made; the system's temporary folder otherwise")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what is held against the bars")
    parser.add_argument("--measured", help="JSON that keeps the figures")
    parser.add_argument("--page", help="Markdown page whose tables are written anew from them (docs/scale.md)")
    return parser.parse_args()


def simulate(folder: Path, images: int) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Every command on a corpus of references, in turn, and what the finished run is like."""
    source, run = folder / "references.parquet", folder / "run"
    write_references(source, images)
    command = functools.partial(measure, source, run)
    commands = {"plan": command("plan"), "run": command("mine")}
    before, units = (run / RUN_FILE).read_bytes(), json.loads((run / "units.json").read_text())["count"]
    for name, prepare, runner, made in (
        ("resume", unfinish, "plain", 0),
        ("resume on Beam", unfinish, "FnApiRunner", 0),
        ("resume without a tenth of the pairs", lose_pairs, "plain", -(-units // 10)),
    ):
        prepare(run)
        commands[name] = command("mine", runner)
        require(name, (run / RUN_FILE).read_bytes() == before, "run.json differs")
        require(name, parts_made(run) == made, f"wanted {made} parts made, got {parts_made(run)}")
    changed = (run / TIMINGS_FILE).stat().st_mtime_ns
    commands["finished run again"] = command("mine", "FnApiRunner")
    require("finished run again", (run / TIMINGS_FILE).stat().st_mtime_ns == changed, "it was done again")
    return commands, {"units": units, **facts_of(source, run)}


def require(name: str, holds: bool, sentence: str) -> None:
    """Ends the simulation where a run is not what it must be."""
    if not holds:
        sys.exit(f"{name}: {sentence}")


def write_references(path: Path, images: int) -> None:
    """A Parquet file of image references, none of which is ever read, with a caption each."""
    schema = pa.schema([("image", pa.string()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, images, ROWS_PER_BATCH):
            numbers = range(start, min(start + ROWS_PER_BATCH, images))
            names = [f"{number:09d}.jpg" for number in numbers]
            # Knuth's multiplicative hash spreads the nouns over the images.
            captions = [f"a photo of a thing{number * 2_654_435_761 % NOUNS}" for number in numbers]
            writer.write_table(pa.table([names, captions], schema=schema))


def measure(source: Path, run: Path, verb: str, runner: str = "plain") -> Measured:
    """One command of `ovseg` with stand-ins, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fake_steps", *command_of(verb, source, run, runner)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    require(verb, process.returncode == 0, f"ended with status {process.returncode}")
    wall_s, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    print(f"{verb} on {runner}: {wall_s:.1f} s, {cpu_s:.1f} CPU-s", file=sys.stderr, flush=True)
    return Measured(wall_s, cpu_s, usage.ru_maxrss / 1024)


def command_of(verb: str, source: str | Path, run: str | Path, runner: str = "plain") -> list[str]:
    """The arguments of one command; without the report, whose reads do not grow with the run."""
    return [verb, "--captions", str(source), "--output", str(run), "--runner", runner, "--no-report"]


def unfinish(run: Path) -> None:
    """As a run is left that was killed before its end."""
    (run / SUCCESS_FILE).unlink()


def lose_pairs(run: Path) -> None:
    """Removes every tenth part of PAIRS."""
    unfinish(run)
    for part in sorted((run / "pairs").glob("part-*"))[::10]:
        part.unlink()


def parts_made(run: Path) -> int:
    """How many parts the last command made."""
    stages = json.loads((run / TIMINGS_FILE).read_text())["stages"]
    return sum(stage["parts_made"] for stage in stages.values())


def facts_of(source: Path, run: Path) -> dict[str, Any]:
    """Sizes of what describes the run, seconds to list it and to read its manifest, and the job graph's bytes."""
    folder = open_run_folder(str(run))
    listing_s, names = timed(lambda: [folder.names(table) for table in TABLES])
    reading_s, manifest = timed(lambda: folder.read_json(RUN_FILE))
    graph = subprocess.run(
        [sys.executable, "-m", "benchmarks.fake_steps", *command_of("graph", source, run)[:-2]],
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        "files": sum(map(len, names)),
        "listing_cpu_s": listing_s,
        "manifest_bytes": (run / RUN_FILE).stat().st_size,
        "manifest_reading_cpu_s": reading_s,
        "listed_parts": sum(len(table["parts"]) for table in manifest["tables"].values()),
        "noted_bytes": (run / ".parts.arrow").stat().st_size,
        "graph_bytes": int(graph.stdout),
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call, and what it returned."""
    started = time.process_time()
    value = function()
    return round(time.process_time() - started, 4), value


def missed_bars(commands: dict[str, Measured], clock: str) -> list[str]:
    """A sentence for every bar that a command missed."""
    missed = []
    for name, each in commands.items():
        seconds = each.wall_s if clock == "wall" else each.cpu_s
        if name in BARS and seconds >= BARS[name]:
            missed.append(f"{name}: wanted less than {BARS[name]:.0f} s, got {seconds:.1f}")
        if each.peak_mib >= MOST_MIB:
            missed.append(f"{name}: wanted less than {MOST_MIB:,.0f} MiB, got {each.peak_mib:,.0f}")
    return missed


def requests_per_unit() -> dict[str, dict[str, float]]:
    """Requests that an object store sees a unit, counted on fsspec's memory store: of a first run and of a resumed one.

    The difference between two sizes, so that what a run asks once does not count.
    """
    small, large = count_requests(64), count_requests(128)
    units = {name: counts.pop("units") for name, counts in (("small", small), ("large", large))}
    more = units["large"] - units["small"]
    return {
        phase: {method: (large[phase][method] - small[phase][method]) / more for method in sorted(large[phase])}
        for phase in ("first", "resumed")
    }


def count_requests(images: int) -> dict[str, Any]:
    """All requests of a first and of a resumed run of four images a unit on the memory store, and its units."""
    counts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder) / "references.parquet", "memory://scale-simulation"
        write_references(source, images)
        for phase in ("first", "resumed"):
            with counted_requests() as requests, silence():
                fake_steps.main([*command_of("mine", source, run), "--images-per-unit", "4"])
            counts[phase] = requests
            fsspec.filesystem("memory").rm_file("/scale-simulation/_SUCCESS")
        counts["units"] = open_run_folder(run).read_json("units.json")["count"]
        fsspec.filesystem("memory").rm("/scale-simulation", recursive=True)
    return counts


@contextlib.contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """Counts what this thread asks the memory store meanwhile; a call within a call is part of it.

    Progress looks from a thread of its own: how often depends on the clock.
    """
    store, ours, inside = fsspec.filesystem("memory"), threading.get_ident(), threading.local()
    requests = Counter(dict.fromkeys(METHODS.values(), 0))

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            if threading.get_ident() != ours or getattr(inside, "call", False):
                return method(*args, **options)
            # Drivers ask for an object's size before they read a range of it.
            requests.update(["HEAD", "GET"] if name == "open" else [METHODS[name]])
            inside.call = True
            try:
                return method(*args, **options)
            finally:
                inside.call = False

        return call

    names = [*METHODS, "open"]
    vars(store).update({name: counted(name, getattr(store, name)) for name in names})
    try:
        yield requests
    finally:
        for name in names:
            vars(store).pop(name)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed meanwhile."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def keep(path: Path, given: argparse.Namespace, commands: dict[str, Measured], facts: dict[str, Any]) -> None:
    """Puts the figures into the JSON of measured values, beside those of other sizes."""
    measured = json.loads(path.read_text()) if path.exists() else {}
    rows = {name: {key: round(value, 2) for key, value in asdict(each).items()} for name, each in commands.items()}
    sizes = measured.get("simulation", {}) | {str(given.images): {"commands": rows, "clock": given.clock, **facts}}
    measured["simulation"] = dict(sorted(sizes.items(), key=lambda item: int(item[0])))
    measured["requests"] = requests_per_unit()
    measured["machine"] = {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    path.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def rewrite_page(page: Path) -> None:
    """Writes docs/scale.md's tables anew, from what is kept beside scale_plan.py."""
    page.write_text(rewrite(page.read_text(), read_measured()))


if __name__ == "__main__":
    main()
