"""PASCAL Context as files: what its two benchmarks, of 59 and of 459 classes, share.

The images are VOC 2010's (VOCtrainval_03-May-2010.tar, host.robots.ox.ac.uk/pascal/VOC/voc2010) and the labels those of
PASCAL Context (trainval.tar.gz, cs.stanford.edu/~roozbeh/pascal-context), unpacked beside them:

    VOCdevkit/VOC2010/
      JPEGImages/2008_000002.jpg
      trainval/2008_000002.mat              LabelMap: 1 to 459, the line of the release's labels.txt
      ImageSets/Main/val.txt, train.txt     VOC 2010's own lists
      pascalcontext_val.txt                 the list that published code uses; read in place of val.txt if it is there

--root is VOC2010, VOCdevkit, or the folder VOCdevkit lies in. PASCAL Context has as many images to train and validate
on as VOC 2010 has, 4,998 and 5,105, so VOC's lists are taken for its own; pascalcontext_val.txt has one image less,
5,104, which is the number of published logs, and comes with neither (CAT-Seg's repository carries it). Split `train` is
there to tune on. A LabelMap is read as it stands: nothing is merged into a class.

Where trainval/ holds no LabelMaps, what CAT-Seg's scripts write is read: annotations_detectron2/pc59_val/NAME.png,
8-bit, the 59 in order of their raw ids, 255 not scored; annotations_detectron2/pc459_val/NAME.tif, 16-bit, raw id
minus 1, 65535 not scored, and 459, CAT-Seg's other number for that, neither. Another program may write the first
folder in another order of the 59, which no file tells: keep trainval/ beside it and it is not looked at.

Cite Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_model.datasets.benchmark import LabelledSample
from ovseg_model.datasets.label_files import (
    Coding,
    Release,
    check_frame,
    find_home,
    pair_listed,
    read_coded,
    read_list,
)
from schemas.errors import UserError

ORIGIN = (
    "VOCtrainval_03-May-2010.tar of host.robots.ox.ac.uk/pascal/VOC/voc2010 and, beside it, trainval.tar.gz of "
    "cs.stanford.edu/~roozbeh/pascal-context"
)
SPLITS = {"val": 5_105, "train": 4_998}
KNOWN_COUNTS = {5_104: "5,104 is the number of published logs, whose list pascalcontext_val.txt lacks one image"}
RAW_CLASSES = 459
LABEL_MAPS = ".mat"
LISTS = {"val": ("pascalcontext_val.txt", "ImageSets/Main/val.txt"), "train": ("ImageSets/Main/train.txt",)}
"""Lists of each split; the first that is there is read."""


def read_pascal_context(root: Path, split: str, converted: str, release: Release) -> Sequence[LabelledSample]:
    """Returns the samples of a split in the order of its list, of LabelMaps where there are any.

    converted: files of the val split that are read otherwise, such as "annotations_detectron2/pc59_val/*.png". Raises
    UserError naming the first file that is missing.
    """
    home = find_home(root, ("VOCdevkit/VOC2010", "VOC2010"), "JPEGImages", release)
    stems = _names(home, split, release)
    pattern = home / converted
    if split == "val" and pattern.parent.is_dir() and not any((home / "trainval").glob(f"*{LABEL_MAPS}")):
        return pair_listed(stems, home / "JPEGImages", pattern.parent, pattern.suffix, release)
    return pair_listed(stems, home / "JPEGImages", home / "trainval", LABEL_MAPS, release)


def _names(home: Path, split: str, release: Release) -> list[str]:
    for name in LISTS[split]:
        if (home / name).is_file():
            return read_list(home / name)
    raise release.error(f"the list of {split} is missing: {home} has none of {', '.join(LISTS[split])}")


def read_pascal_labels(sample: LabelledSample, label_maps: Coding, converted: Coding) -> np.ndarray:
    """Returns a converted label map, uint16 (H, W). Raises UserError for a file that is none."""
    if not sample.labels.endswith(LABEL_MAPS):
        return read_coded(sample, converted)
    labels_HW = label_maps.positions(_read_label_map(sample.labels), sample.labels)
    check_frame(labels_HW, sample)
    return labels_HW


def _read_label_map(path: str) -> np.ndarray:
    """LabelMap of a MATLAB file, int64 (H, W)."""
    from scipy.io import loadmat

    try:
        label_map_HW = loadmat(path, variable_names=["LabelMap"])["LabelMap"]
    except KeyError as error:
        raise UserError(f"{path}: wanted a MATLAB file with LabelMap, got one without; fetch it again") from error
    except Exception as error:  # bytes that are no MATLAB file provoke nearly anything
        raise UserError(f"{path} cannot be read as a MATLAB file: {error}; fetch it again") from error
    if label_map_HW.dtype.kind not in "ui" or label_map_HW.ndim != 2 or label_map_HW.min(initial=0) < 0:
        raise UserError(
            f"{path}: wanted LabelMap of whole numbers from 0, (H, W), got {label_map_HW.dtype} {label_map_HW.shape}; "
            "fetch it again"
        )
    return label_map_HW.astype(np.int64)
