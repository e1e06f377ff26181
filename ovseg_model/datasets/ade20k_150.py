"""ADE20K-150 (A-150): 2,000 validation images of the Scene Parsing Benchmark of 2016, 150 classes.

ADEChallengeData2016.zip of MIT's Scene Parsing Benchmark (sceneparsing.csail.mit.edu) unpacks to

    ADEChallengeData2016/
      images/validation/ADE_val_00000001.jpg           images/training/ADE_train_00000001.jpg
      annotations/validation/ADE_val_00000001.png      annotations/training/ADE_train_00000001.png

--root is that folder or the one it lies in. Label files are 8-bit: 0 is unlabelled and not scored, 1 to 150 are the
classes in the order of evaluation. Nothing is converted on disk; files whose zero was reduced before
(`annotations_detectron2`) are not read, so that it cannot be reduced twice. Split `train` (20,210 images) is there to
tune on. Names: OVSeg takes detectron2's built-in list (Apache-2.0), with its commas; the space behind "window " is that
list's, and OVSeg strips it before it fills a template.

Cite Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017, and Semantic Understanding of Scenes through the
ADE20K Dataset, IJCV 2019.
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
from ovseg_model.datasets.label_files import Release, coding_of, find_home, pair_images, read_coded, read_sample_image
from ovseg_model.datasets.seen_classes import seen_classes

NAME = "ade20k-150"
RELEASE = Release(NAME, "ADEChallengeData2016.zip of MIT's Scene Parsing Benchmark, sceneparsing.csail.mit.edu")
CLASSES = read_class_table(CLASS_TABLES / f"{NAME}.tsv")
CODING = coding_of(CLASSES, largest=150)
PARTS = {"val": "validation", "train": "training"}
"""Folder of each split."""


def read_split(root: Path, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split, by name. Raises UserError naming the first file that is missing."""
    home = find_home(root, ("ADEChallengeData2016",), f"annotations/{PARTS[split]}", RELEASE)
    return pair_images(home / "images" / PARTS[split], home / "annotations" / PARTS[split], ".png", RELEASE)


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="ADE20K-150 (A-150)",
    classes=CLASSES,
    splits={"val": 2_000, "train": 20_210},
    default_split="val",
    read_split=read_split,
    read_labels=partial(read_coded, coding=CODING),
    read_image=read_sample_image,
    settings=OvsegSettings(clip_weight=0.7),
    seen=seen_classes(CLASSES),
    notes=(
        "Unlabelled pixels (raw 0) are not scored. OVSeg tuned its mask threshold and its weight of CLIP on this very "
        "split. Seen classes by this project's own rule, not by OVSeg's."
    ),
)
