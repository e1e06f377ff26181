"""ADE20K-847 (A-847): the same 2,000 validation images in the full release of 2021, 847 classes.

The full release ADE20K_2021_17_01 (on request, groups.csail.mit.edu/vision/datasets/ADE20K) unpacks to

    ADE20K_2021_17_01/
      images/ADE/validation/urban/street/ADE_val_00000001.jpg      images/ADE/training/...
      images/ADE/validation/urban/street/ADE_val_00000001_seg.png
      index_ade20k.pkl                                    not read: the class table has what is needed of it

--root is that folder or the one it lies in. A pixel of a `_seg.png` is of the class R // 10 · 256 + G, counted from 1
as in the index of the release; 0, and every class that is none of the 847, is not scored. Where both sides of an image
exceed 512 px, image and labels are shrunk to a short side of 512 px while they are read, and scores are of the shrunk
labels: that is how the 847 classes have always been scored. Labels take the pixel at the rounded-down position, as
OpenCV's nearest neighbour does in that conversion, so these label maps equal converted ones. Images take Pillow's
bilinear filter, which averages what it leaves out and is free of the moiré of OpenCV's; they differ in pixel values
from converted ones, which were also compressed a second time.

Where the release is missing, what that conversion wrote is read, as detectron2 projects lay it out:

      images_detectron2/validation/ADE_val_00000001.jpg            images_detectron2/training/...
      annotations_detectron2/validation/ADE_val_00000001.tif       16-bit: position of the class, 65535 not scored

There, 255 is a position as any other. Split `train` (25,574 images) is there to tune on. Names and ids are those of
CAT-Seg (MIT), FC-CLIP (Apache-2.0) and SAN (MIT); OVSeg's are the same as far as is known, so the variants are equal.

Cite Zhou et al., Semantic Understanding of Scenes through the ADE20K Dataset, IJCV 2019, and for the 847 classes Cheng
et al., Per-Pixel Classification is Not All You Need for Semantic Segmentation, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_model.datasets.benchmark import (
    CLASS_TABLES,
    LabelledSample,
    LabelMapBenchmark,
    OvsegSettings,
    read_class_table,
)
from ovseg_model.datasets.label_files import (
    Release,
    check_frame,
    coding_of,
    converted_coding,
    find_home,
    of_picture,
    pair_images,
    read_coded,
    read_rgb,
)
from ovseg_model.datasets.seen_classes import seen_classes

NAME = "ade20k-847"
RELEASE = Release(NAME, "ADE20K_2021_17_01, the full release, groups.csail.mit.edu/vision/datasets/ADE20K (on request)")
CLASSES = read_class_table(CLASS_TABLES / f"{NAME}.tsv")
SEGMENTS = "_seg.png"
LARGEST = 255 // 10 * 256 + 255
"""Largest class that red and green can say."""

CODING = coding_of(CLASSES, LARGEST)
CONVERTED = converted_coding(range(len(CLASSES)), void=65535)
PARTS = {"val": "validation", "train": "training"}
SHORT_SIDE_PX = 512
"""Larger images are shrunk to this before anything else."""


def read_split(root: Path, split: str) -> Sequence[LabelledSample]:
    """Returns the samples of a split, by name. Raises UserError naming the first file that is missing."""
    part = PARTS[split]
    for home in (root, root / "ADE20K_2021_17_01"):
        if (home / "annotations_detectron2" / part).is_dir() and not (home / "images" / "ADE" / part).is_dir():
            folders = home / "images_detectron2" / part, home / "annotations_detectron2" / part
            return pair_images(*folders, ".tif", RELEASE)
    home = find_home(root, ("ADE20K_2021_17_01",), f"images/ADE/{part}", RELEASE)
    return _pair_released(home / "images" / "ADE" / part)


def _pair_released(folder: Path) -> list[LabelledSample]:
    """A sample a JPEG at any depth, by file name, wherever its folder sorts."""
    images = sorted(folder.rglob("*.jpg"), key=lambda path: path.name)
    if not images:
        raise RELEASE.error(f"{folder} holds no *.jpg at any depth")
    samples = [LabelledSample(path.stem, str(path), str(path.with_name(path.stem + SEGMENTS))) for path in images]
    missing = [sample.labels for sample in samples if not Path(sample.labels).is_file()]
    if missing:
        raise RELEASE.error(f"{missing[0]} is missing")
    return samples


def read_labels(sample: LabelledSample) -> np.ndarray:
    """Returns the converted label map, shrunk where the image is, uint16 (H, W). Raises UserError."""
    if not sample.labels.endswith(SEGMENTS):
        return read_coded(sample, CONVERTED)
    labels_HW = CODING.positions(_read_segments(sample.labels), sample.labels)
    check_frame(labels_HW, sample)
    return shrink_labels(labels_HW, *shrunk_size(*labels_HW.shape))


def _read_segments(path: str) -> np.ndarray:
    """Class of each pixel, counted from 1, 0 where there is none; int64 (H, W)."""
    mode, pixels = of_picture(path, lambda image: (image.mode, np.asarray(image)))
    if mode != "RGB":
        raise RELEASE.error(f"label map {path}: wanted classes in red and green (Pillow's mode RGB), got mode {mode}")
    return pixels[..., 0].astype(np.int64) // 10 * 256 + pixels[..., 1]


def read_image(sample: LabelledSample) -> np.ndarray:
    """Returns the image, shrunk where both sides exceed 512 px, RGB uint8 (H, W, 3). Raises UserError."""
    image_HW3 = read_rgb(sample.image)
    if not sample.labels.endswith(SEGMENTS):
        return image_HW3
    height, width = shrunk_size(*image_HW3.shape[:2])
    if (height, width) == image_HW3.shape[:2]:
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR))


def shrunk_size(height: int, width: int) -> tuple[int, int]:
    """Returns height and width in pixels at which an image is scored: the short side is 512 at most."""
    if min(height, width) <= SHORT_SIDE_PX:
        return height, width
    if width >= height:
        return SHORT_SIDE_PX, round(width / height * SHORT_SIDE_PX)
    return round(height / width * SHORT_SIDE_PX), SHORT_SIDE_PX


def shrink_labels(labels_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns labels at the rounded-down positions: row i of h is row floor(i · H / h), columns alike."""
    rows_h, columns_w = (
        (np.arange(count) * (size / count)).astype(np.int64)
        for size, count in zip(labels_HW.shape, (height, width), strict=True)
    )
    return labels_HW[rows_h[:, None], columns_w]


BENCHMARK = LabelMapBenchmark(
    name=NAME,
    title="ADE20K-847 (A-847)",
    classes=CLASSES,
    splits={"val": 2_000, "train": 25_574},
    default_split="val",
    read_split=read_split,
    read_labels=read_labels,
    read_image=read_image,
    settings=OvsegSettings(clip_weight=0.7),
    seen=seen_classes(CLASSES),
    notes=(
        "Images whose both sides exceed 512 px are shrunk to a short side of 512 px and scored there. Pixels of other "
        "classes than the 847 are not scored. Seen classes by this project's own rule."
    ),
)
