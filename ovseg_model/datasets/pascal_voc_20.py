"""PASCAL VOC-20 (PAS-20): 1,449 validation images of VOC 2012, its 20 classes without background.

VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012) unpacks to

    VOCdevkit/VOC2012/
      JPEGImages/2007_000033.jpg
      SegmentationClass/2007_000033.png          palette: 0 background, 1 to 20 classes, 255 border
      SegmentationClassAug/2007_000033.png       of SBD, made by others: the same coding
      ImageSets/Segmentation/val.txt, train.txt

--root is VOC2012, VOCdevkit, or the folder VOCdevkit lies in. SegmentationClassAug is read where it is there, as OVSeg
does, else SegmentationClass: the two may differ in how wide a border is left out. Palette pictures are read as numbers.
Background and border are not scored, so every pixel that is scored shows one of the 20. An image of nothing but them
scores nothing and takes part without effect; OVSeg's converter skips it. Split `train` (1,464 images) is there to tune
on. Names: VOC's own, glued ("pottedplant"), in both variants. Cite Everingham et al., The PASCAL Visual Object Classes
Challenge: A Retrospective, IJCV 2015, and for SegmentationClassAug Hariharan et al., Semantic Contours from Inverse
Detectors, ICCV 2011.
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
from ovseg_model.datasets.label_files import (
    Release,
    coding_of,
    find_home,
    pair_listed,
    read_coded,
    read_list,
    read_sample_image,
)
from ovseg_model.datasets.seen_classes import seen_classes

NAME = "pascal-voc-20"
RELEASE = Release(NAME, "VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC/voc2012")
CLASSES = read_class_table(CLASS_TABLES / f"{NAME}.tsv")
CODING = coding_of(CLASSES, largest=20, void=255)
LABEL_FOLDERS = ("SegmentationClassAug", "SegmentationClass")
"""The first that is there is read."""


def read_split(root: Path, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split in the order of its list. Raises UserError naming the first missing file."""
    names = f"ImageSets/Segmentation/{split}.txt"
    home = find_home(root, ("VOCdevkit/VOC2012", "VOC2012"), names, RELEASE)
    labels = next((home / name for name in LABEL_FOLDERS if (home / name).is_dir()), home / LABEL_FOLDERS[-1])
    return pair_listed(read_list(home / names), home / "JPEGImages", labels, ".png", RELEASE)


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="PASCAL VOC-20 (PAS-20)",
    classes=CLASSES,
    splits={"val": 1_449, "train": 1_464},
    default_split="val",
    read_split=read_split,
    read_labels=partial(read_coded, coding=CODING),
    read_image=read_sample_image,
    # The paper states 0.6 (A.3), the released commands 0.45; these are what others can run, so they are followed.
    settings=OvsegSettings(clip_weight=0.45),
    seen=seen_classes(CLASSES),
    notes=(
        "Background is not scored and cannot be predicted, so numbers do not compare with those of VOC-21. Images of "
        "background alone take part without effect; OVSeg skips them. OVSeg's paper states a weight of CLIP of 0.6, "
        "its released commands 0.45."
    ),
)
