"""PASCAL Context-459 (PC-459): the validation images of PASCAL Context, all of its classes.

Where the files come from and how they lie: pascal_context.py. A LabelMap's values 1 to 459 are the classes, in their
order; 0 is not scored. One of the classes is "unknown", and it is scored as any other, as published numbers do.

Order: by raw id, which is OVSeg's too, for its labels are raw id minus 1. Names: the release glues words together
("airconditioner"), and so does CAT-Seg; those taken for OVSeg's have spaces ("air conditioner"), as SAN (MIT) has them.
That OVSeg's do is likely, and was not compared with its code, whose licence keeps it out of here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ovseg_model.datasets.benchmark import (
    CLASS_TABLES,
    LabelledSample,
    LabelMapBenchmark,
    OvsegSettings,
    read_class_table,
)
from ovseg_model.datasets.label_files import Coding, Release, coding_of, read_sample_image
from ovseg_model.datasets.pascal_context import (
    KNOWN_COUNTS,
    ORIGIN,
    RAW_CLASSES,
    SPLITS,
    read_pascal_context,
    read_pascal_labels,
)
from ovseg_model.datasets.seen_classes import seen_classes

NAME = "pascal-context-459"
RELEASE = Release(NAME, ORIGIN)
CLASSES = read_class_table(CLASS_TABLES / f"{NAME}.tsv")
CODING = coding_of(CLASSES, RAW_CLASSES)
CONVERTED = Coding(np.roll(CODING.positions_R, -1), RAW_CLASSES, void=65535)
"""Raw ids minus 1; CAT-Seg's number for what is not scored, 459, is no position either."""


def read_split(root: Path, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split in the order of its list. Raises UserError naming the first missing file."""
    return read_pascal_context(root, split, "annotations_detectron2/pc459_val/*.tif", RELEASE)


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="PASCAL Context-459 (PC-459)",
    classes=CLASSES,
    splits=SPLITS,
    default_split="val",
    read_split=read_split,
    read_labels=partial(read_pascal_labels, label_maps=CODING, converted=CONVERTED),
    read_image=read_sample_image,
    settings=OvsegSettings(clip_weight=0.6),
    seen=seen_classes(CLASSES),
    notes=(
        "About 345 of the 459 classes occur in the official split, and what else is predicted decides between the two "
        "mean IoUs: OVSeg and CAT-Seg divide by the classes that occur or are predicted (U), FC-CLIP and SAN by those "
        "that occur (G). Seen classes by this project's own rule."
    ),
    known_counts=KNOWN_COUNTS,
)
