"""Time and memory against corpus size: both should be boring, linear and flat.

`python -m benchmarks.scaling` mines 200 and 2,000 drawn images and extracts the nouns of 100,000 and 1,000,000
captions, each in a process of its own, and prints wall time, rate and peak memory. `--output FILE` writes the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.examples import draw_examples

CAPTIONS_PER_IMAGE = 5


class Measured(NamedTuple):
    """One command: what it read, its wall time and the peak resident memory of its process."""

    name: str
    size: int
    seconds: float
    peak_mib: float


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=(200, 2_000))
    parser.add_argument("--captions", type=int, nargs=2, default=(100_000, 1_000_000))
    parser.add_argument("--nouns", default="lexicon", help="noun rule of the captions' run")
    parser.add_argument("--clip", default="ViT-S-32-alt/random")
    parser.add_argument("--captions-file", help="COCO captions JSON to repeat; drawn captions otherwise")
    parser.add_argument("--only", choices=("captions", "images"))
    parser.add_argument("--output", help="file for the Markdown table")
    given = parser.parse_args()
    measures = {"captions": measure_captions, "images": measure_images}
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for name, measure in measures.items()
            if given.only in (None, name)
            for row in measure(Path(folder), given)
        ]
    print(table(rows))
    if given.output:
        Path(given.output).write_text(page(table(rows)))


def measure_images(folder: Path, given: argparse.Namespace) -> Iterator[Measured]:
    """`ovseg mine` on drawn images of two counts."""
    for images in given.images:
        drawn = draw_examples(folder / f"drawn-{images}", images)
        inputs = ["--captions", str(drawn / "captions.json"), "--images", str(drawn / "images")]
        # About four masks an image, as many as there are things: the cost of a mask is CLIP's, not ours.
        masks = ["--masks", "felzenszwalb", "--mask-option", "sigma_px=0", "min_area_fraction=0.01"]
        models = ["--nouns", "lexicon", *masks, "--clip", given.clip]
        run = folder / f"mined-{images}"
        seconds, peak_mib = run_verb(["mine", *inputs, *models, "--output", str(run)])
        check_totals(run, "propose_masks", images)
        yield Measured("ovseg mine, drawn images", images, seconds, peak_mib)


def measure_captions(folder: Path, given: argparse.Namespace) -> Iterator[Measured]:
    """`ovseg nouns` on captions of two counts."""
    texts = real_captions(given.captions_file) if given.captions_file else drawn_captions(folder)
    for captions in given.captions:
        source = folder / f"captions-{captions}.jsonl"
        write_captions(source, texts, captions)
        run = folder / f"nouns-{captions}"
        arguments = ["nouns", "--captions", str(source), "--nouns", given.nouns, "--output", str(run)]
        seconds, peak_mib = run_verb(arguments)
        check_totals(run, "read_captions", captions)
        yield Measured(f"ovseg nouns --nouns {given.nouns}, captions", captions, seconds, peak_mib)


def run_verb(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one `ovseg` command in a process of its own."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"ovseg {' '.join(arguments)} ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def check_totals(run: Path, stage: str, wanted: int) -> None:
    """Ends the benchmark when a run did not read what it was given."""
    read = json.loads((run / "run.json").read_text())["stages"][stage]["totals"]["read"]
    if read != wanted:
        sys.exit(f"{run}: {stage} read {read}, wanted {wanted}")


def real_captions(path: str) -> list[str]:
    """The captions of a COCO captions file."""
    return [annotation["caption"].strip() for annotation in json.loads(Path(path).read_text())["annotations"]]


def drawn_captions(folder: Path) -> list[str]:
    """The captions of a few drawn images."""
    return real_captions(str(draw_examples(folder / "drawn", 200, size_px=32) / "captions.json"))


def write_captions(path: Path, texts: Sequence[str], count: int) -> None:
    """JSONL of `count` captions, five an image; the texts repeat."""
    with path.open("w") as file:
        for index, text in zip(range(count), itertools.cycle(texts), strict=False):
            row = {"image": f"{index // CAPTIONS_PER_IMAGE:08d}.jpg", "caption": text}
            file.write(json.dumps(row) + "\n")


def page(text: str) -> str:
    """docs/scaling.md around a measured table."""
    return f"""# Time and memory against corpus size

Written by `make bench-full` on {os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}.
Every line is one command in a process of its own: wall time from its start to its end, imports included (about 20 s
where torch and open_clip are needed, 5 s for Beam alone), and the peak of its resident memory. Time should grow with
the corpus, or less, memory not at all; ten times the input is ten times the parts, each as large as before.

{text}

Captions are read, frozen into units, and their nouns extracted by the rule named. Drawn images are mined with about
four masks each; what a mask costs is CLIP's forward, which this page is not about.
"""


def table(rows: Sequence[Measured]) -> str:
    """Markdown, the ratio of each pair's larger to its smaller under it."""
    lines = ["| command | size | wall s | per second | peak MiB |", "|---|---|---|---|---|"]
    for small, large in zip(rows[::2], rows[1::2], strict=True):
        lines += [line(small), line(large)]
        ratios = large.size / small.size, large.seconds / small.seconds, large.peak_mib / small.peak_mib
        lines.append("| ratio | {:.1f}x | {:.1f}x | | {:.2f}x |".format(*ratios))
    return "\n".join(lines)


def line(row: Measured) -> str:
    """One row of the table."""
    return f"| {row.name} | {row.size:,} | {row.seconds:.1f} | {row.size / row.seconds:,.0f} | {row.peak_mib:,.0f} |"


if __name__ == "__main__":
    main()
