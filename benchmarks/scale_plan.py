"""What a corpus needs, from measured rates and table sizes: the tables of docs/scale.md.

    python -m benchmarks.scale_plan --page docs/scale.md            writes the page's tables anew
    python -m benchmarks.scale_plan --run RUN                       first takes rows and bytes an image from a run

Nothing is typed into the page: a figure is measured (scale_measured.json, written by scale_simulation.py and by --run),
given with its source (GIVEN), or computed here.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.unit_overhead import report
from pipelines.options import FreezeOptions
from pipelines.units import unit_count

MEASURED_FILE = Path(__file__).with_name("scale_measured.json")

BLOCK = re.compile(r"(<!-- scale: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

Measured = dict[str, Any]


class Given(NamedTuple):
    """A number from elsewhere: value, unit, and where it is from."""

    value: float
    unit: str
    source: str


HERE = "measured on 2 CPU cores"
ESTIMATE = "estimated stage by stage, work on the host included; not measured"

GIVEN = {
    "NLTK nouns": Given(27000, "captions a CPU second", f"{HERE}, docs/noun_speed.md"),
    "felzenszwalb": Given(0.59, "CPU seconds an image", f"{HERE}, docs/masks.md"),
    "SAM ViT-B, encoder": Given(0.97, "TFLOP an image", "counted"),
    "SAM ViT-B, decoder": Given(0.00362, "TFLOP a point", "counted"),
    "MaskFormer Swin-B": Given(0.39, "TFLOP for 640 x 640 px", "published: 195 G multiply-adds (arXiv 2107.06278)"),
    "CLIP ViT-B-32": Given(0.0087, "TFLOP a region", "computed from its layers"),
    "CLIP ViT-B-16": Given(0.0352, "TFLOP a region", "computed from its layers"),
    "CLIP ViT-L-14": Given(0.162, "TFLOP a region", "computed from its layers"),
    "SAM and CLIP ViT-B-16, tuned, least": Given(0.055, "H100 seconds an image", ESTIMATE),
    "SAM and CLIP ViT-B-16, tuned, most": Given(0.13, "H100 seconds an image", ESTIMATE),
    "SAM and CLIP ViT-B-16, as they come, least": Given(2.1, "H100 seconds an image", ESTIMATE),
    "SAM and CLIP ViT-B-16, as they come, most": Given(4.2, "H100 seconds an image", ESTIMATE),
    "H100": Given(989, "TFLOP/s, bf16 dense", "published"),
    "L4": Given(121, "TFLOP/s, bf16 dense", "published"),
    "share of it that is used": Given(0.4, "", "assumed; decoders bound by memory reach less"),
    "objects written to a new bucket": Given(1000, "a second", "published (Google Cloud Storage)"),
    "objects read from a new bucket": Given(5000, "a second", "published (Google Cloud Storage)"),
    "memory of the launching machine": Given(16, "GiB", "assumed"),
    "a run's days": Given(7, "days", "assumed"),
}
"""Every number of the page that was neither measured by scale_simulation.py nor computed."""

PHOTO_PX = (640, 853)
"""A photograph of four to three, as the generator maskformer reads it: short side 640 px."""

SECONDS_AN_HOUR, GIB = 3600, 2**30

SHOWN = ("captions", "nouns", "masks", "pairs", "drops")
"""The tables that grow with a corpus."""

STAGES = 4
"""Each writes a part and its drops a unit."""

FILES_A_RUN = 10
"""VOCABULARY's part, run.json, units.json, timings.json, examples.png, report.html, _SUCCESS, .input.json, .parts.arrow
and .submitted.json."""

IMAGE_READS = 2
"""An image is read for its masks and once more for its regions."""


@dataclass(frozen=True)
class Corpus:
    """Images, and how many of them a unit holds, about."""

    images: int
    images_per_unit: int = FreezeOptions.images_per_unit

    @property
    def units(self) -> int:
        """A power of two."""
        return unit_count(self.images, self.images_per_unit)

    @property
    def files(self) -> int:
        """Files of the run."""
        return 2 * STAGES * self.units + FILES_A_RUN

    @property
    def label(self) -> str:
        """How a table's column calls it."""
        return f"{self.images // 10**6} M images, {self.images_per_unit:,} a unit"


CORPORA = (Corpus(10**6), Corpus(10**8), Corpus(10**8, 1024))


class Line(NamedTuple):
    """A straight line through two measured sizes."""

    fixed: float
    slope: float

    def at(self, size: float) -> float:
        """The value at a size."""
        return self.fixed + self.slope * size

    def reaches(self, value: float) -> float:
        """The size at which it has a value."""
        return (value - self.fixed) / self.slope


def line_through(measured: Measured, value: Callable[[Measured], float], size: str) -> Line:
    """Through the smallest and the largest simulation; `size` is images or units."""
    runs = {int(images): run for images, run in measured["simulation"].items()}
    small, large = min(runs), max(runs)
    x, y = ((images if size == "images" else runs[images]["units"]) for images in (small, large))
    slope = (value(runs[large]) - value(runs[small])) / (y - x)
    return Line(value(runs[small]) - slope * x, slope)


def planning_s(measured: Measured) -> Line:
    """Processor seconds of planning against captions; the simulation has one an image."""
    return line_through(measured, lambda run: run["commands"]["plan"]["cpu_s"], "images")


def resume_s(measured: Measured) -> Line:
    """Processor seconds of resuming a complete run against units."""
    return line_through(measured, lambda run: run["commands"]["resume on Beam"]["cpu_s"], "units")


def peak_gib(measured: Measured) -> Line:
    """Peak memory of the launching process against units: of whatever command needs most."""
    return line_through(
        measured, lambda run: max(each["peak_mib"] for each in run["commands"].values()) * 2**20 / GIB, "units"
    )


def manifest_bytes(measured: Measured) -> Line:
    """Bytes of run.json against units."""
    return line_through(measured, lambda run: run["manifest_bytes"], "units")


def table_bytes(corpus: Corpus, table: str, measured: Measured) -> float:
    """Bytes of a table, at the measured bytes an image."""
    photos = measured["photographs"]
    return corpus.images * photos["tables"][table]["bytes"] / photos["images"]


def requests(corpus: Corpus, methods: tuple[str, ...], measured: Measured) -> float:
    """Requests of a first run on the store, of some methods; the images are read by GET."""
    per_unit = sum(measured["requests"]["first"][method] for method in methods)
    return per_unit * corpus.units + (IMAGE_READS * corpus.images if "GET" in methods else 0)


WRITES, READS = ("PUT", "DELETE"), ("GET", "HEAD", "LIST")


def tflop_of(measured: Measured) -> dict[str, float]:
    """TFLOP an image of everything that runs on a GPU."""
    height_px, width_px = PHOTO_PX
    regions = rows_an_image("masks", measured)
    sam = {f"SAM ViT-B, {side} x {side} points": sam_tflop(side) for side in (32, 16)}
    maskformer = {"MaskFormer Swin-B": GIVEN["MaskFormer Swin-B"].value * height_px * width_px / 640**2}
    clips = {name: GIVEN[name].value * regions for name in GIVEN if name.startswith("CLIP")}
    return {**sam, **maskformer, **clips}


def sam_tflop(side: int) -> float:
    """TFLOP of SAM's automatic masks on a grid of side x side points."""
    return GIVEN["SAM ViT-B, encoder"].value + side * side * GIVEN["SAM ViT-B, decoder"].value


def gpu_hours(images: float, tflop: float, gpu: str) -> float:
    """Hours of one GPU for so many TFLOP an image."""
    return images * tflop / (GIVEN[gpu].value * GIVEN["share of it that is used"].value) / SECONDS_AN_HOUR


def rows_an_image(table: str, measured: Measured) -> float:
    """Rows of a table, an image."""
    return measured["photographs"]["tables"][table]["rows"] / measured["photographs"]["images"]


class Limit(NamedTuple):
    """What gives out, its bar, the images at which it is reached by images a unit, and what moves it."""

    what: str
    bar: str
    images: dict[int, float]
    moved_by: str


def limits(measured: Measured) -> list[Limit]:
    """All that grows with a corpus, what gives out first at the default unit before the others."""
    memory, resume, manifest = peak_gib(measured), resume_s(measured), manifest_bytes(measured)
    most_gib = GIVEN["memory of the launching machine"].value
    captions, more = planning_s(measured).reaches(12 * SECONDS_AN_HOUR), "--images-per-unit; several runs"
    found = [
        Limit(
            "planning: one process reads and cuts the captions",
            "12 hours",
            dict.fromkeys(UNIT_SIZES, captions / rows_an_image("captions", measured)),
            "several runs, one a set of input files, planned side by side",
        ),
        Limit("resuming: one process looks at every part", "1 hour", of_units(resume.reaches(SECONDS_AN_HOUR)), more),
        Limit("memory: one process lists every part", f"{most_gib} GiB", of_units(memory.reaches(most_gib)), more),
        Limit("run.json", "1 GB", of_units(manifest.reaches(1e9)), more),
    ]
    return sorted(found, key=lambda limit: limit.images[UNIT_SIZES[0]])


UNIT_SIZES = (FreezeOptions.images_per_unit, 1024)


def of_units(units: float) -> dict[int, float]:
    """Units as images, by images a unit."""
    return {size: units * size for size in UNIT_SIZES}


def given_table(measured: Measured) -> str:
    """What the computation starts from."""
    photos = measured["photographs"]
    rows = [[name, f"{each.value:g} {each.unit}".strip(), each.source] for name, each in GIVEN.items()]
    for table in SHOWN:
        facts = photos["tables"][table]
        amount = f"{facts['rows'] / photos['images']:.1f} rows, {facts['bytes'] / photos['images']:,.0f} bytes an image"
        rows.append([table.upper(), amount, f"measured: {photos['images']} COCO photographs, {photos['generator']}"])
    for method, count in measured["requests"]["first"].items():
        resumed = measured["requests"]["resumed"][method]
        amount = f"{count:.1f} a unit, {resumed:.1f} in a resumed run"
        rows.append([f"{method} requests", amount, "counted on fsspec's memory store, progress left out"])
    return markdown(["number", "value", "source"], rows)


def corpus_table(measured: Measured) -> str:
    """What each corpus is made of."""
    days = GIVEN["a run's days"].value
    seconds = days * 24 * SECONDS_AN_HOUR
    planning, resume, memory, manifest = (each(measured) for each in (planning_s, resume_s, peak_gib, manifest_bytes))
    graph = max(run["graph_bytes"] for run in measured["simulation"].values())
    lines: dict[str, Callable[[Corpus], str]] = {
        "units": lambda corpus: f"{corpus.units:,}",
        "images a unit": lambda corpus: f"{corpus.images / corpus.units:,.0f}",
        "files": lambda corpus: f"{corpus.files:,}",
        **{
            f"{table.upper()}, GB": (lambda corpus, table=table: f"{table_bytes(corpus, table, measured) / 1e9:,.1f}")
            for table in SHOWN
        },
        "all tables, GB": lambda corpus: f"{sum(table_bytes(corpus, table, measured) for table in SHOWN) / 1e9:,.1f}",
        "run.json, MB": lambda corpus: f"{manifest.at(corpus.units) / 1e6:,.0f}",
        "job graph, kB": lambda corpus: f"{graph / 1e3:,.0f}",
        "planning, CPU hours": lambda corpus: f"{planning.at(captions_of(corpus, measured)) / SECONDS_AN_HOUR:,.2f}",
        "resuming it complete, CPU hours": lambda corpus: f"{resume.at(corpus.units) / SECONDS_AN_HOUR:,.2f}",
        "memory of the launching process, GiB": lambda corpus: f"{memory.at(corpus.units):,.1f}",
        "nouns by NLTK, CPU hours": lambda corpus: f"{noun_hours(corpus, measured):,.1f}",
        "writes, million": lambda corpus: f"{requests(corpus, WRITES, measured) / 1e6:,.1f}",
        "reads, million": lambda corpus: f"{requests(corpus, READS, measured) / 1e6:,.1f}",
        f"writes a second over {days:g} days": lambda corpus: f"{requests(corpus, WRITES, measured) / seconds:,.1f}",
        f"reads a second over {days:g} days": lambda corpus: f"{requests(corpus, READS, measured) / seconds:,.1f}",
    }
    rows = [[name, *(value(corpus) for corpus in CORPORA)] for name, value in lines.items()]
    return markdown(["", *(corpus.label for corpus in CORPORA)], rows)


def captions_of(corpus: Corpus, measured: Measured) -> float:
    """Captions of a corpus."""
    return corpus.images * rows_an_image("captions", measured)


def noun_hours(corpus: Corpus, measured: Measured) -> float:
    """CPU hours of NLTK's tagger."""
    return captions_of(corpus, measured) / GIVEN["NLTK nouns"].value / SECONDS_AN_HOUR


def gpu_table(measured: Measured) -> str:
    """Hours of GPUs for 100 million images, and how many GPUs do it in the days given."""
    images, days = CORPORA[1].images, GIVEN["a run's days"].value
    rows = []
    for name, tflop in tflop_of(measured).items():
        hours = {gpu: gpu_hours(images, tflop, gpu) for gpu in ("H100", "L4")}
        count = hours["H100"] / (days * 24)
        rows.append([name, f"{tflop:.2f}", f"{hours['H100']:,.0f}", f"{hours['L4']:,.0f}", f"{count:,.1f}"])
    for way in ("tuned", "as they come"):
        least, most = (GIVEN[f"SAM and CLIP ViT-B-16, {way}, {end}"].value for end in ("least", "most"))
        low, high = (images * each / SECONDS_AN_HOUR for each in (least, most))
        count = f"{low / days / 24:,.0f} to {high / days / 24:,.0f}"
        rows.append([f"SAM and CLIP ViT-B-16, {way}, estimated", "", f"{low:,.0f} to {high:,.0f}", "", count])
    cpu_hours = images * GIVEN["felzenszwalb"].value / SECONDS_AN_HOUR
    rows.append(["felzenszwalb, on CPU cores", "", f"{cpu_hours:,.0f} core hours", "", ""])
    head = ["", "TFLOP an image", "H100 hours", "L4 hours", f"H100s for {days:g} days"]
    return markdown(head, rows)


def limits_table(measured: Measured) -> str:
    """What gives out, and when."""
    found = limits(measured)
    rows = [
        [each.what, each.bar, *(f"{each.images[size] / 1e6:,.0f} M" for size in UNIT_SIZES), each.moved_by]
        for each in found
    ]
    head = ["what gives out", "bar", *(f"images, {size:,} a unit" for size in UNIT_SIZES), "what moves it"]
    first = found[0]
    name, millions = first.what.split(":")[0], first.images[UNIT_SIZES[0]] / 1e6
    sentence = f"The first limit is {name}: {first.bar} at {millions:,.0f} million images. {store_sentence(measured)}"
    return f"{markdown(head, rows)}\n\n{filled(sentence)}"


def store_sentence(measured: Measured) -> str:
    """The rate at which a new bucket gives out, as images a second and as GPUs."""
    corpus = CORPORA[1]
    writes = requests(corpus, WRITES, measured) / corpus.images
    reads = requests(corpus, READS, measured) / corpus.images
    rates = {
        "written": GIVEN["objects written to a new bucket"].value / writes,
        "read": GIVEN["objects read from a new bucket"].value / reads,
    }
    kind = min(rates, key=lambda name: rates[name])
    tflop = tflop_of(measured)
    per_gpu = 1 / (gpu_hours(1, tflop["MaskFormer Swin-B"] + tflop["CLIP ViT-B-16"], "H100") * SECONDS_AN_HOUR)
    return (
        f"A bucket is another: as a new one it gives out at {rates[kind]:,.0f} images a second (objects {kind}), which "
        f"is what {rates[kind] / per_gpu:,.0f} H100s do with MaskFormer Swin-B and CLIP ViT-B-16; images in a bucket "
        "or shards of their own, and a rate that rises slowly, move it."
    )


def simulation_table(measured: Measured) -> str:
    """What the simulation of the most images measured."""
    runs = {int(images): run for images, run in measured["simulation"].items()}
    images, run = max(runs.items())
    machine = measured["machine"]
    rows = [
        [name, f"{each['wall_s']:,.1f}", f"{each['cpu_s']:,.1f}", f"{each['peak_mib']:,.0f}"]
        for name, each in run["commands"].items()
    ]
    clock = {"cpu": "processor", "wall": "wall"}[run["clock"]]
    paragraphs = [
        f"{images:,} references in {run['units']:,} units; {machine['cpus']} CPU cores ({machine['processor']}), "
        f"Python {machine['python']}; {clock} time was held against the bars.",
        markdown(["command", "wall s", "CPU s", "peak MiB"], rows),
        f"{run['files']:,} files are listed in {run['listing_cpu_s']:.2f} CPU-s. run.json has "
        f"{run['manifest_bytes'] / 1e6:.1f} MB and is read in {run['manifest_reading_cpu_s']:.2f} CPU-s, the note of "
        f"parts has {run['noted_bytes'] / 1e6:.1f} MB, the job graph {run['graph_bytes'] / 1e3:.0f} kB. Slopes go "
        f"through the sizes {' and '.join(f'{size:,}' for size in sorted(runs))}.",
    ]
    return "\n\n".join(each if each.startswith("|") else filled(each) for each in paragraphs)


def overhead_table(measured: Measured) -> str:
    """What units cost beside plain loops."""
    return report(measured["overhead"]["scenes"], measured["overhead"]["cpu_s"])


def filled(text: str) -> str:
    """A paragraph in lines."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


BLOCKS: dict[str, Callable[[Measured], str]] = {
    "given": given_table,
    "corpus": corpus_table,
    "gpu": gpu_table,
    "limits": limits_table,
    "simulation": simulation_table,
    "overhead": overhead_table,
}


def rewrite(text: str, measured: Measured) -> str:
    """The page with every block written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](measured)}\n{match[3]}", text)


def measure_tables(run: Path) -> Measured:
    """Rows and bytes of every table of a finished run."""
    manifest = json.loads((run / "run.json").read_text())
    tables = {
        name: {"rows": table["rows"], "bytes": sum(part["bytes"] for part in table["parts"])}
        for name, table in manifest["tables"].items()
    }
    generator = manifest["stages"]["propose_masks"]["options"]["masks"]
    return {"images": manifest["units"]["images"], "generator": generator, "tables": tables}


def read_measured() -> Measured:
    """The measured values."""
    return json.loads(MEASURED_FILE.read_text())


def main() -> None:
    """Prints every table, or writes them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run of photographs")
    parser.add_argument("--page", type=Path, help="Markdown with blocks to write anew")
    given = parser.parse_args()
    measured = read_measured()
    if given.run:
        measured["photographs"] = measure_tables(given.run)
        MEASURED_FILE.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")
    if given.page:
        given.page.write_text(rewrite(given.page.read_text(), measured))
    else:
        print("\n\n".join(f"{name}\n{block(measured)}" for name, block in BLOCKS.items()))


if __name__ == "__main__":
    main()
