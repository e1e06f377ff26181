"""What a benchmark is: classes in order, samples with their truth, and how its numbers are to be read.

One file of this folder a benchmark. Label files are converted while they are read (raw ids to positions, everything
else to IGNORE), so nothing has to be prepared on disk and nothing of the original is changed. Array names end in their
axes: H and W pixels, N masks, 3 colour channels in RGB order.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    short_side_px: int = 640
    max_side_px: int = 2560


@dataclass(frozen=True)
class LabelMapBenchmark:
    """Semantic segmentation: a label map an image."""

    name: str
    """As --benchmark takes it, such as "ade20k-150"."""

    title: str
    """As papers write it."""

    classes: tuple[BenchmarkClass, ...]
    """In the order of evaluation."""

    find_samples: Callable[[Path], Sequence[LabelledSample]]
    """Samples below a folder, in order. Raises UserError naming the first file that is missing, where it was looked
    for, and where it comes from."""

    read_labels: Callable[[LabelledSample], np.ndarray]
    """Converted label map, uint16 (H, W). Raises UserError for a file that is none."""

    read_image: Callable[[LabelledSample], np.ndarray]
    """RGB uint8, of the label map's size (H, W, 3)."""

    official_images: int
    """How many samples the official set has."""

    settings: OvsegSettings
    seen: frozenset[str] = frozenset()
    """OVSeg names of the classes that COCO-Stuff, the training taxonomy, has too (appendix A.8)."""

    notes: str = ""
    """What must be said with its numbers."""

    catseg_order: tuple[int, ...] | None = None
    """Position, in `classes`, of each class in CAT-Seg's order, where that is another."""

    def names(self, variant: str = "ovseg") -> tuple[str, ...]:
        """Class names in the order of `classes`, whatever the variant. Raises UserError for an unknown variant."""
        if variant not in VARIANTS:
            raise UserError(f"class names: wanted one of {', '.join(VARIANTS)}, got {variant!r}")
        return tuple(each.name if variant == "ovseg" else each.catseg_name for each in self.classes)


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


def open_label_map_benchmark(name: str) -> LabelMapBenchmark:
    """Returns a benchmark by name. Raises UserError for an unknown one."""
    if name not in LABEL_MAP_BENCHMARKS:
        raise UserError(f"benchmark {name!r} is not known: wanted one of {', '.join(LABEL_MAP_BENCHMARKS)}")
    return importlib.import_module(LABEL_MAP_BENCHMARKS[name]).BENCHMARK
