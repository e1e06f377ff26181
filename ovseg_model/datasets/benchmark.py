"""What a benchmark is: classes in order, samples with their truth, and how its numbers are to be read.

One file of this folder a benchmark. Label files are converted while they are read (raw ids to positions, everything
else to IGNORE), so nothing has to be prepared on disk and nothing of the original is changed. Array names end in their
axes: H and W pixels, N masks, 3 colour channels in RGB order.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from schemas.errors import UserError

IGNORE = 65535
"""In a converted label map: pixels that are not scored. Label maps are uint16, classes 0 to K-1."""

VARIANTS = ("ovseg", "catseg")
"""Lists of class names: OVSeg's own, synonyms with commas as they stand, and CAT-Seg's."""


class BenchmarkClass(NamedTuple):
    """One row of a benchmark's class table, in the order of evaluation."""

    raw_id: int
    """The value that stands for the class in the data set's own label files."""

    name: str
    """OVSeg's name, verbatim."""

    catseg_name: str
    """CAT-Seg's name, verbatim."""


@dataclass(frozen=True)
class LabelledSample:
    """One image and its label map, by where they lie; small and picklable."""

    name: str
    """Unique in the benchmark, sorted as the data set sorts: results of a sample are kept under it."""

    image: str
    labels: str


@dataclass(frozen=True)
class OvsegSettings:
    """What OVSeg used on a benchmark (section 5.2 and A.3): stated with every number, and never tuned on it here."""

    clip_weight: float
    """λ of the geometric fusion, 0 to 1: 1 is CLIP alone but for what the proposal network excludes."""


@dataclass(frozen=True)
class LabelMapBenchmark:
    """Semantic segmentation: a label map an image, in named splits.

    Numbers are of `default_split`; the others are there to tune on, so that nothing is tuned on what is reported.
    """

    name: str
    """As --benchmark takes it, such as "ade20k-150"."""

    title: str
    """As papers write it."""

    classes: tuple[BenchmarkClass, ...]
    """In the order of evaluation."""

    splits: Mapping[str, int]
    """Official number of images of each split."""

    default_split: str
    """The one that is reported."""

    read_split: Callable[[Path, str], Sequence[LabelledSample]]
    """Samples of one of `splits` below a folder, in order; `find_samples` checks what it is given. Raises UserError
    naming the first file that is missing, where it was looked for, and where it comes from."""

    read_labels: Callable[[LabelledSample], np.ndarray]
    """Converted label map, uint16 (H, W). Raises UserError for a file that is none."""

    read_image: Callable[[LabelledSample], np.ndarray]
    """RGB uint8, of the label map's size (H, W, 3)."""

    settings: OvsegSettings
    seen: frozenset[str] = frozenset()
    """OVSeg names of the classes that COCO-Stuff, the training taxonomy, has too (appendix A.8)."""

    notes: str = ""
    """What must be said with its numbers."""

    catseg_order: tuple[int, ...] | None = None
    """Position, in `classes`, of each class in CAT-Seg's order, where that is another."""

    known_counts: Mapping[int, str] = field(default_factory=dict)
    """Other numbers of images of the reported split that are met in print, and what explains them."""

    drawn: bool = False
    """Whether there is something to score without any folder."""

    @property
    def official_images(self) -> int:
        """How many images the reported split has officially."""
        return self.splits[self.default_split]

    def find_samples(self, root: Path | None, split: str = "") -> Sequence[LabelledSample]:
        """Returns the samples of a split below a folder, in order, at least one; "" is the default split.

        root: None where `drawn`. Raises UserError for an unknown split, a folder that is none, no samples at all, and
        naming the first file that is missing, where it was looked for, and where it comes from.
        """
        split = self.checked_split(split)
        if root is None and not self.drawn:
            raise UserError(f"{self.name}: wanted the folder that holds the data set, got none; give --root")
        if root is not None and not root.is_dir():
            raise UserError(f"{self.name}: {root} is no folder; give the one that holds the data set")
        samples = self.read_split(root, split)
        repeated = len(samples) - len({sample.name for sample in samples})
        if repeated:
            raise UserError(f"{self.name}: {repeated} images of {split} below {root} stand twice; mend its list")
        if not samples:
            raise UserError(f"{self.name}: below {root} there is no image of {split}, which has {self.splits[split]:,}")
        return samples

    def checked_split(self, split: str) -> str:
        """Returns the split, the default one for "". Raises UserError for an unknown one."""
        if split and split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}: wanted one of {', '.join(self.splits)}")
        return split or self.default_split

    def names(self, variant: str = "ovseg") -> tuple[str, ...]:
        """Class names in the order of `classes`, whatever the variant. Raises UserError for an unknown variant."""
        if variant not in VARIANTS:
            raise UserError(f"class names: wanted one of {', '.join(VARIANTS)}, got {variant!r}")
        return tuple(each.name if variant == "ovseg" else each.catseg_name for each in self.classes)


def check_count(benchmark: LabelMapBenchmark, found: int, split: str = "") -> str | None:
    """Returns what must be said of a split with another number of images than the official one, else None."""
    split = benchmark.checked_split(split)
    official = benchmark.splits[split]
    if found == official:
        return None
    told = f"{benchmark.name}: {found:,} images of {split}, officially it has {official:,}"
    if split == benchmark.default_split and found in benchmark.known_counts:
        return f"{told}; {benchmark.known_counts[found]}"
    return f"{told}; numbers of another set of images compare with no published ones"


CLASS_TABLES = Path(__file__).parent / "class_tables"
"""Class tables by name of the benchmark: NAME.tsv."""


def read_class_table(path: Path) -> tuple[BenchmarkClass, ...]:
    """Returns a class table: tab-separated, header raw_id, name, catseg_name, rows in the order of evaluation."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return tuple(BenchmarkClass(int(row["raw_id"]), row["name"], row["catseg_name"]) for row in rows)


def positions_by_raw_id(classes: Sequence[BenchmarkClass], raw_values: int) -> np.ndarray:
    """Returns the look-up table from raw values to positions, uint16 (raw_values,), IGNORE where there is no class."""
    table = np.full(raw_values, IGNORE, np.uint16)
    table[[each.raw_id for each in classes]] = np.arange(len(classes))
    return table


LABEL_MAP_BENCHMARKS: Mapping[str, str] = {
    "ade20k-150": "ovseg_model.datasets.ade20k_150",
    "ade20k-847": "ovseg_model.datasets.ade20k_847",
    "pascal-context-59": "ovseg_model.datasets.pascal_context_59",
    "pascal-context-459": "ovseg_model.datasets.pascal_context_459",
    "pascal-voc-20": "ovseg_model.datasets.pascal_voc_20",
    "coco-stuff-171": "ovseg_model.datasets.coco_stuff_171",
    "scenes": "ovseg_model.datasets.scenes_benchmark",
}
"""Benchmarks by name, and the module whose BENCHMARK it is."""


def open_benchmark_split(name: str) -> tuple[LabelMapBenchmark, str]:
    """Returns what "NAME" or "NAME:SPLIT" means, such as "scenes:ink": a benchmark, and one of its splits.

    Raises UserError for an unknown name or split.
    """
    name, _, split = name.partition(":")
    benchmark = open_label_map_benchmark(name)
    return benchmark, benchmark.checked_split(split)


def open_label_map_benchmark(name: str) -> LabelMapBenchmark:
    """Returns a benchmark by name. Raises UserError for an unknown one."""
    if name not in LABEL_MAP_BENCHMARKS:
        raise UserError(f"benchmark {name!r} is not known: wanted one of {', '.join(LABEL_MAP_BENCHMARKS)}")
    return importlib.import_module(LABEL_MAP_BENCHMARKS[name]).BENCHMARK
