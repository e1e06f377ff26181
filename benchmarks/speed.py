"""Every benchmark of mining's speed, one after the other, with one table and one plot of their ratios.

    python -m benchmarks.speed --data FOLDER --output docs/speed.md
    python -m benchmarks.speed --data FOLDER --output docs/speed.md --full

Each checks first that both ways give the same, then times them in turns in one process, writes a page of its own beside
the table, and fails below its bar. A ratio is of median CPU seconds of one thread. FOLDER holds captions_val2017.json
and NLTK's data in nltk_data/; without it nouns and whole runs are left out, and named. `make bench` takes some ten
minutes on two quiet cores, `make bench-full` hours: 1,024 points instead of 64 in a whole run, and more turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import PLACE, Result, read_results


class Benchmark(NamedTuple):
    """A module of this package, its page, its arguments in short and at full size."""

    module: str
    page: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    needs_data: bool = False


BENCHMARKS = (
    Benchmark("nouns", "noun_speed", full=("--full",), needs_data=True),
    Benchmark("noun_embeddings", "noun_embedding_speed", full=("--captions", "5000"), needs_data=True),
    Benchmark("masked_regions", "region_speed", ("--repeats", "5")),
    Benchmark("sam_everything", "sam_speed", ("--quick",)),
    Benchmark("one_pass", "one_pass", ("--scenes", "20", "--crops", "10"), ("--scenes", "200", "--crops", "100")),
    Benchmark("model_share", "model_share"),
    Benchmark("whole_run", "whole_run_speed", ("--repeats", "1"), ("--points-per-side", "32"), needs_data=True),
)


def command_of(benchmark: Benchmark, folder: Path, data: Path | None, full: bool) -> list[str]:
    """What runs one benchmark and writes its page."""
    given = [*(benchmark.full if full else benchmark.quick), "--output", str(folder / f"{benchmark.page}.md")]
    if benchmark.module in ("nouns", "noun_embeddings"):
        given += ["--data", str(data)]
    return [sys.executable, "-m", f"benchmarks.{benchmark.module}", *given]


def run_all(folder: Path, data: Path | None, full: bool) -> tuple[list[Result], list[str]]:
    """Runs them all; returns what they noted, and sentences on those that failed or were left out."""
    problems = []
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as noted:
        environment = {**os.environ, PLACE: noted.name} | ({"NLTK_DATA": str(data / "nltk_data")} if data else {})
        for benchmark in BENCHMARKS:
            if benchmark.needs_data and data is None:
                problems.append(f"{benchmark.module} was left out: it needs --data")
                continue
            started = time.monotonic()
            print(f"== {benchmark.module}", flush=True)
            status = subprocess.run(command_of(benchmark, folder, data, full), env=environment, check=False).returncode
            print(f"== {benchmark.module}: {time.monotonic() - started:.0f} s\n", flush=True)
            if status:
                problems.append(f"{benchmark.module} failed, exit status {status}: its lines above say why")
        return read_results(noted.name), problems


def table(results: Sequence[Result]) -> str:
    """Markdown: a row a result."""
    lines = ["| what | against | times as fast | bar | goal | |", "|---|---|---:|---:|---:|---|"]
    for each in results:
        bar, goal = (f"{value:g}" if value is not None else "" for value in (each.bar, each.goal))
        lines.append(f"| {each.what} | {each.against} | {each.ratio:.2f} | {bar} | {goal} | {each.remark} |")
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    """A bar a result on a logarithmic axis, with its least ratio and its goal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 + 0.42 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(results))
    axes.barh(
        places, [each.ratio for each in results], color=["#4477aa" if each.holds else "#cc6677" for each in results]
    )
    for place, each in enumerate(results):
        axes.annotate(f" {each.ratio:.1f}", (each.ratio, place), va="center", fontsize=8)
    for name, style in (("bar", "|"), ("goal", "*")):
        marked = [(getattr(each, name), place) for place, each in enumerate(results) if getattr(each, name)]
        if marked:
            axes.scatter(*zip(*marked, strict=True), marker=style, color="black", s=70, zorder=3, label=name)
    axes.set_yticks(places, [each.what for each in results], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast (median CPU seconds)")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, writes table and plot; exits with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with captions_val2017.json and nltk_data")
    parser.add_argument("--full", action="store_true", help="full sizes, hours")
    parser.add_argument("--output", type=Path, required=True, help="file for the table; pages lie beside it")
    given = parser.parse_args(argv)
    results, problems = run_all(given.output.parent, given.data and given.data.absolute(), given.full)
    if results:
        write(given.output, results, problems)
    if problems:
        sys.exit("\n".join(problems))


def write(output: Path, results: Sequence[Result], problems: Sequence[str]) -> None:
    """The page and its plot."""
    picture = output.parent / "images" / f"{output.stem}.png"
    picture.parent.mkdir(exist_ok=True)
    draw(results, picture)
    place = f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} at the end."
    parts = [f"# Speed of mining\n\n{__doc__}", f"![ratios](images/{picture.name})", table(results), place, *problems]
    output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
