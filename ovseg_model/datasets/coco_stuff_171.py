"""COCO-Stuff-171: the 5,000 images of COCO val2017, 80 things and 91 stuffs; OVSeg's training taxonomy.

Images of COCO 2017 (cocodataset.org), label maps of COCO-Stuff (stuffthingmaps_trainval2017.zip,
github.com/nightrome/cocostuff):

    coco/
      val2017/000000000139.jpg                    train2017/000000000009.jpg
      stuffthingmaps/val2017/000000000139.png     stuffthingmaps/train2017/000000000009.png

--root is that folder or the one it lies in; images may lie in images/ too, and label maps in
stuffthingmaps_trainval2017/ or, as in COCO-Stuff's own instructions, in annotations/. Label maps are 8-bit: a value is
COCO's category id minus 1, with gaps; 255 is not scored. Split `train` (118,287 images) is there to tune on, and OVSeg
was trained on it. Names: COCO-Stuff's own with their dashes ("wall-brick"), in both variants; SAN (MIT) has the same.
Cite Caesar et al., COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018.
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

NAME = "coco-stuff-171"
RELEASE = Release(
    NAME, "COCO 2017 (cocodataset.org) and stuffthingmaps_trainval2017.zip of github.com/nightrome/cocostuff"
)
CLASSES = read_class_table(CLASS_TABLES / f"{NAME}.tsv")
CODING = coding_of(CLASSES, largest=181, void=255)
PARTS = {"val": "val2017", "train": "train2017"}
LABEL_FOLDERS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations")
"""The first that is there is read."""


def read_split(root: Path, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split, by name. Raises UserError naming the first file that is missing."""
    part = PARTS[split]
    images = find_home(root, ("images", "coco", "coco/images"), part, RELEASE)
    home = images.parent if images.name == "images" else images
    labels = next((home / name / part for name in LABEL_FOLDERS if (home / name / part).is_dir()), None)
    return pair_images(images / part, labels or home / LABEL_FOLDERS[0] / part, ".png", RELEASE)


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="COCO-Stuff-171",
    classes=CLASSES,
    splits={"val": 5_000, "train": 118_287},
    default_split="val",
    read_split=read_split,
    read_labels=partial(read_coded, coding=CODING),
    read_image=read_sample_image,
    # OVSeg states none for its training taxonomy; this is the one of its mixed sets.
    settings=OvsegSettings(clip_weight=0.6),
    seen=seen_classes(CLASSES),
    notes=(
        "The training taxonomy of OVSeg's proposal network: every class is seen, and the number says nothing of open "
        "vocabularies. OVSeg states no weight of CLIP for it; 0.6 is ours."
    ),
)
