"""What a referring benchmark is: expressions, each with the mask of what it means.

One file of this folder a family of benchmarks. Masks are COCO RLE, in the frame of the image as `read_image` of
dataset_files.py gives it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg_model.rle import Rle
from schemas.errors import UserError


@dataclass(frozen=True)
class ReferringSample:
    """One expression and its answer; small and picklable."""

    name: str
    """Unique in the benchmark's split: results of a sample are kept under it."""

    image: str
    """Path."""

    text: str
    """The expression, verbatim but for white space around it."""

    mask: Rle
    """What the expression means; it may be empty."""

    ignore: Rle | None = None
    """Pixels that are not scored, none of them in `mask`."""

    group: str = ""
    """One of the benchmark's `groups`, or "" where it has none."""


@dataclass(frozen=True)
class ReferringBenchmark:
    """Segmentation by expressions."""

    name: str
    """As --benchmark takes it, such as "refcoco+"."""

    title: str
    """As papers write it."""

    splits: Mapping[str, int]
    """Official number of expressions of each split."""

    default_split: str
    read_split: Callable[[Path, str], list[ReferringSample]]
    """Samples of one of `splits` below a folder, in order; `find_samples` checks what it is given."""

    notes: str
    """What must be said with its numbers."""

    groups: tuple[str, ...] = ()
    """Subsets that are reported beside the whole."""

    def find_samples(self, root: Path, split: str) -> list[ReferringSample]:
        """Returns the samples of a split below a folder, in the data set's order; their images are there.

        Raises UserError for an unknown split, and naming the first file that is missing or wrong, where it was looked
        for, and where it comes from.
        """
        if split not in self.splits:
            raise UserError(f"{self.title} has no split {split!r}: wanted one of {', '.join(self.splits)}")
        samples = self.read_split(root, split)
        if not samples:
            raise UserError(f"{self.title} {split}: the files below {root} have no expression of this split")
        names = {sample.name for sample in samples}
        if len(names) < len(samples):
            raise UserError(f"{self.title} {split}: {len(samples) - len(names)} expressions below {root} stand twice")
        return samples

    def count_warning(self, split: str, samples: Sequence[ReferringSample]) -> str:
        """Returns a sentence where a split has not its official number of expressions, else ""."""
        if len(samples) == self.splits[split]:
            return ""
        return (
            f"{self.title} {split} has {self.splits[split]} expressions, here are {len(samples)}: "
            "the numbers compare with no published ones"
        )


REFERRING_BENCHMARKS: Mapping[str, tuple[str, str]] = {
    "refcoco": ("ovseg_model.datasets.refcoco", "REFCOCO"),
    "refcoco+": ("ovseg_model.datasets.refcoco", "REFCOCO_PLUS"),
    "refcocog": ("ovseg_model.datasets.refcoco", "REFCOCOG"),
    "reasonseg": ("ovseg_model.datasets.reasonseg", "REASONSEG"),
}
"""Benchmarks by name: module, and its name there."""


def open_referring_benchmark(name: str) -> ReferringBenchmark:
    """Returns a benchmark by name. Raises UserError for an unknown one."""
    if name not in REFERRING_BENCHMARKS:
        raise UserError(f"benchmark {name!r} is not known: wanted one of {', '.join(REFERRING_BENCHMARKS)}")
    module, attribute = REFERRING_BENCHMARKS[name]
    return getattr(importlib.import_module(module), attribute)
