"""PASCAL Context-59 (PC-59): the validation images of PASCAL Context, its 59 usual classes.

Where the files come from and how they lie: pascal_context.py. Of a LabelMap the 59 values of the class table are
classes; everything else, which papers with 60 classes call background, is not scored. Published labels may differ in
places: projects that convert trainval_merged.json, CAT-Seg among them, read another edition of the annotations.

Order: that of the data set's own list of 59, VOC's twenty first, as mmsegmentation (Apache-2.0) has it. That OVSeg's
order is not CAT-Seg's, which is by raw id, stands in MESS (MIT); that it is this one is inferred, for of the orders in
use this is the other, and was not compared with OVSeg's code, whose licence keeps it out of here. Scores depend on the
order only where two classes tie. Names: those of that list, so raw id 397 is "table"; CAT-Seg and SAN have
"diningtable".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ovseg_model.datasets.benchmark import (
    CLASS_TABLES,
    LabelledSample,
    LabelMapBenchmark,
    OvsegSettings,
    read_class_table,
)
from ovseg_model.datasets.label_files import Release, coding_of, converted_coding, read_sample_image
from ovseg_model.datasets.pascal_context import (
    KNOWN_COUNTS,
    ORIGIN,
    RAW_CLASSES,
    SPLITS,
    read_pascal_context,
    read_pascal_labels,
)
from ovseg_model.datasets.seen_classes import seen_classes

NAME = "pascal-context-59"
RELEASE = Release(NAME, ORIGIN)
CLASSES = read_class_table(CLASS_TABLES / f"{NAME}.tsv")
CATSEG_ORDER = tuple(sorted(range(len(CLASSES)), key=lambda position: CLASSES[position].raw_id))
CODING = coding_of(CLASSES, RAW_CLASSES)
CONVERTED = converted_coding(CATSEG_ORDER, void=255)


def read_split(root: Path, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split in the order of its list. Raises UserError naming the first missing file."""
    return read_pascal_context(root, split, "annotations_detectron2/pc59_val/*.png", RELEASE)


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="PASCAL Context-59 (PC-59)",
    classes=CLASSES,
    splits=SPLITS,
    default_split="val",
    read_split=read_split,
    read_labels=partial(read_pascal_labels, label_maps=CODING, converted=CONVERTED),
    read_image=read_sample_image,
    settings=OvsegSettings(clip_weight=0.6),
    seen=seen_classes(CLASSES),
    notes=(
        "Pixels outside the 59 classes are not scored, so numbers do not compare with those of 60 classes. Labels are "
        "the LabelMaps of the release; projects that convert trainval_merged.json may have slightly other ones. Seen "
        "classes by this project's own rule."
    ),
    catseg_order=CATSEG_ORDER,
    known_counts=KNOWN_COUNTS,
)
