"""Every benchmark of mining's speed, with one table and one plot of their ratios.

    python -m benchmarks.speed --data FOLDER --output docs/speed.md
    python -m benchmarks.speed --data FOLDER --output docs/speed.md --full

Each compares what both ways give, times them in turns in one process, writes a page of its own beside the table, and
fails below its bar. A ratio is of median CPU seconds of one thread. FOLDER holds captions_val2017.json and NLTK's data
in nltk_data/; without it nouns and whole runs are left out, and named.

`make bench` runs two benchmarks at a time, some eleven minutes on two quiet cores. CPU seconds are what another program
disturbs least; what the two share, caches and memory, both ways of a benchmark share with it in turns. Its whole run is
one reading, and its share in models one of 30 scenes. `make bench-full` takes hours, one benchmark after the other:
1,024 points instead of 64 in a whole run, 200 scenes, and more turns. --at-once says otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import NamedTuple

from benchmarks.pages import write_page
from benchmarks.results import PLACE, SHARE, Result, read_results


class Benchmark(NamedTuple):
    """A module of this package, its page, its arguments in short and at full size."""

    module: str
    page: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    needs_data: bool = False
    minutes: float = 1.0
    """About what it takes in short."""


BENCHMARKS = (
    Benchmark("nouns", "noun_speed", full=("--full",), needs_data=True),
    Benchmark("noun_embeddings", "noun_embedding_speed", full=("--captions", "5000"), needs_data=True, minutes=2.5),
    Benchmark("masked_regions", "region_speed", ("--repeats", "5")),
    Benchmark("sam_everything", "sam_speed", ("--quick",), ("--points-per-side", "32"), minutes=3),
    Benchmark(
        "one_pass", "one_pass", ("--scenes", "10", "--crops", "10"), ("--scenes", "200", "--crops", "100"), minutes=1.5
    ),
    Benchmark("model_share", "model_share", ("--scenes", "30"), minutes=2),
    Benchmark(
        "whole_run", "whole_run_speed", ("--repeats", "1"), ("--points-per-side", "32"), needs_data=True, minutes=6
    ),
)


def command_of(benchmark: Benchmark, folder: Path, data: Path | None, full: bool) -> list[str]:
    """What runs one benchmark and writes its page."""
    given = [*(benchmark.full if full else benchmark.quick), "--output", str(folder / f"{benchmark.page}.md")]
    if benchmark.module in ("nouns", "noun_embeddings"):
        given += ["--data", str(data)]
    return [sys.executable, "-m", f"benchmarks.{benchmark.module}", *given]


class Ran(NamedTuple):
    """What came of one benchmark."""

    results: list[Result]
    said: str
    status: int


def run_one(command: Sequence[str], environment: dict[str, str]) -> Ran:
    """Runs one in a process of its own."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as noted:
        environment = {**environment, PLACE: noted.name}
        done = subprocess.run(command, env=environment, check=False, stdout=PIPE, stderr=STDOUT, text=True)
        said = f"{done.stdout}== {time.monotonic() - started:.0f} s\n"
        return Ran(read_results(noted.name), said, done.returncode)


def run_all(folder: Path, data: Path | None, full: bool, at_once: int) -> tuple[list[Result], list[str]]:
    """Runs them all, `at_once` at a time; returns what they noted, and sentences on those that failed or lack data."""
    environment = {**os.environ} | ({"NLTK_DATA": str(data / "nltk_data")} if data else {})
    ready = [each for each in BENCHMARKS if data or not each.needs_data]
    problems = [f"{each.module} was left out: it needs --data" for each in BENCHMARKS if each not in ready]
    results: dict[str, list[Result]] = {}
    with ThreadPoolExecutor(at_once) as pool:
        # The longest first, so that none is left alone at the end.
        longest = sorted(ready, key=lambda each: -each.minutes)
        running = {each: pool.submit(run_one, command_of(each, folder, data, full), environment) for each in longest}
        for benchmark, coming in running.items():
            ran = coming.result()
            print(f"== {benchmark.module}\n{ran.said}", flush=True)
            results[benchmark.module] = ran.results
            if ran.status:
                problems.append(f"{benchmark.module} failed, exit status {ran.status}: its lines above say why")
    return [result for each in ready for result in results[each.module]], problems


def table(results: Sequence[Result]) -> str:
    """Markdown: a row a result."""
    lines = ["| what | against | times as fast | bar | goal | |", "|---|---|---:|---:|---:|---|"]
    for each in results:
        bar, goal = (f"{value:g}" if value is not None else "" for value in (each.bar, each.goal))
        lines.append(f"| {each.what} | {each.against} | {each.ratio:.2f} | {bar} | {goal} | {each.remark} |")
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    """A bar a ratio on a logarithmic axis, with its least ratio and its goal; bars of scaled figures are hatched."""
    from matplotlib.figure import Figure

    ratios = [each for each in results if each.remark != SHARE]
    figure = Figure(figsize=(9, 0.6 + 0.42 * len(ratios)), layout="constrained")
    axes = figure.add_subplot()
    for place, each in enumerate(ratios):
        colour, hatch = "#4477aa" if each.holds else "#cc6677", "//" if each.is_scaled else None
        axes.barh(place, each.ratio, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        axes.annotate(f" {each.ratio:.1f}", (each.ratio, place), va="center", fontsize=8)
    if any(each.is_scaled for each in ratios):
        axes.barh(0, 0, color="#4477aa", hatch="//", edgecolor="white", label="scaled from fewer")
    for name, style in (("bar", "|"), ("goal", "*")):
        marked = [(getattr(each, name), place) for place, each in enumerate(ratios) if getattr(each, name)]
        if marked:
            axes.scatter(*zip(*marked, strict=True), marker=style, color="black", s=70, zorder=3, label=name)
    axes.set_yticks(range(len(ratios)), [each.what for each in ratios], fontsize=8)
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
    parser.add_argument("--at-once", type=int, help="benchmarks that run side by side; 2, with --full 1")
    given = parser.parse_args(argv)
    at_once = given.at_once or (1 if given.full else 2)
    data = given.data and given.data.absolute()
    results, problems = run_all(given.output.parent, data, given.full, at_once)
    if results:
        write(given.output, results, problems)
    if problems:
        sys.exit("\n".join(problems))


def write(output: Path, results: Sequence[Result], problems: Sequence[str]) -> None:
    """The page and its plot."""
    picture = output.parent / "images" / f"{output.stem}.png"
    picture.parent.mkdir(exist_ok=True)
    draw(results, picture)
    sections = [f"![ratios](images/{picture.name})", table(results), *problems]
    write_page(output, "Speed of mining", __doc__, sections, ("torch",), 1)


if __name__ == "__main__":
    main()
