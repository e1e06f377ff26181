"""Waterbirds (Sagawa et al., ICLR 2020): birds of CUB pasted on land and water of Places.

ROOT/waterbird_complete95_forest2water2/metadata.csv     img_filename, y, split, place of every image
ROOT/waterbird_complete95_forest2water2/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg ...
ROOT/segmentations/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.png ...    CUB's masks, if wanted

The first folder may be ROOT itself. Bird and background agree in 95 % of the training images, and in half of each
bird's others: whoever looks at the background is wrong there. Array names end in their axes: H and W pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ovseg_model.datasets.dataset_files import find_place, require_files
from schemas.errors import UserError

FOLDER, METADATA, SEGMENTATIONS = "waterbird_complete95_forest2water2", "metadata.csv", "segmentations"

SOURCE = (
    "group_DRO, https://github.com/kohpangwei/group_DRO "
    "(archive https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz)"
)
MASKS_SOURCE = "CUB-200-2011's segmentations.tgz, https://www.vision.caltech.edu/datasets/cub_200_2011/"

CLASSES = ("landbird", "waterbird")
"""Class prompts, in the order of the labels."""

BACKGROUNDS = ("land", "water")

GROUPS = tuple(f"{bird} on {background}" for bird in CLASSES for background in BACKGROUNDS)
"""Groups in group_DRO's order: 2 × label + background."""

SPLITS = ("train", "val", "test")
"""By their number in metadata.csv."""

MAJORITY = 127
"""CUB's masks are the mean of five people's, 0 to 255: a brighter pixel is bird for three of them or more."""


@dataclass(frozen=True)
class BirdSample:
    """One image; small and picklable."""

    name: str
    """Unique: the file's name in CUB, without its ending."""

    image: str
    """Path."""

    mask: str | None
    """Path of the bird's mask, or None where the region is the whole image."""

    label: int
    """Position in CLASSES."""

    background: int
    """Position in BACKGROUNDS."""

    @property
    def group(self) -> int:
        """Position in GROUPS."""
        return group_of(self.label, self.background)


class BirdRow(NamedTuple):
    """A row of metadata.csv; label, split and background as numbers."""

    file_name: str
    label: int
    split: int
    background: int


def read_metadata(path: Path) -> list[BirdRow]:
    """Returns the rows of a metadata.csv in its order. Raises UserError for another table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [_row(each) for each in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: wanted group_DRO's columns img_filename, y (0, 1), split (0, 1, 2) and place (0, 1); "
            f"got {type(error).__name__}: {error}"
        ) from error
    return rows


def _row(row: Mapping[str, str]) -> BirdRow:
    label, split, background = (int(row[key]) for key in ("y", "split", "place"))
    if label not in (0, 1) or split not in (0, 1, 2) or background not in (0, 1):
        raise ValueError(f"y {label}, split {split}, place {background} of {row['img_filename']}")
    return BirdRow(row["img_filename"], label, split, background)


def group_of(label: int, background: int) -> int:
    """Returns the position in GROUPS of a bird, by position in CLASSES, on a background, by position in BACKGROUNDS."""
    return len(BACKGROUNDS) * label + background


def group_counts(groups: Iterable[int]) -> np.ndarray:
    """Returns the images of each group, int64 (4,). groups: of each image, positions in GROUPS."""
    return np.bincount(np.fromiter(groups, np.int64), minlength=len(GROUPS))


def find_metadata(root: Path) -> Path:
    """Returns the place of metadata.csv. Raises UserError."""
    return find_place("Waterbirds", [root / FOLDER / METADATA, root / METADATA], SOURCE)


def read_region(sample: BirdSample, height: int, width: int) -> np.ndarray:
    """Returns the region of an image of that size, bool (H, W): the bird, or all of it where there is no mask.

    Where no pixel is bird for three of the five people, it is what any of them marked. Raises UserError for a mask that
    is none, is empty, or has another size than its image.
    """
    if sample.mask is None:
        return np.ones((height, width), bool)
    try:
        with Image.open(sample.mask) as mask:
            grey_HW = np.asarray(mask.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"mask {sample.mask} cannot be read: {error}") from error
    if grey_HW.shape != (height, width):
        raise UserError(
            f"mask {sample.mask} is {grey_HW.shape[0]} x {grey_HW.shape[1]}, its image {height} x {width} "
            "(height x width); take both from one release of CUB-200-2011"
        )
    bird_HW = grey_HW > (MAJORITY if grey_HW.max() > MAJORITY else 0)
    if not bird_HW.any():
        raise UserError(f"mask {sample.mask} is empty; wanted a bird that is brighter than its background")
    return bird_HW


@dataclass(frozen=True)
class WaterbirdsBenchmark:
    """Classification of birds on backgrounds that agree with them, or do not."""

    name: str
    title: str
    classes: tuple[str, ...]
    """Class prompts, in the order of the labels."""

    groups: tuple[str, ...]
    splits: Mapping[str, tuple[int, ...]]
    """Official images of each group, by split."""

    default_split: str
    notes: str
    """What must be said with its numbers, beside `region_note`."""

    def find_samples(self, root: Path, split: str) -> list[BirdSample]:
        """Returns the samples of a split below a folder, in the order of metadata.csv; their files are there.

        Masks are for all or for none: ROOT/segmentations has to hold all of the split's, where there is one. Raises
        UserError for an unknown split, and naming the first file that is missing or wrong and where it comes from.
        """
        if split not in self.splits:
            raise UserError(f"{self.title} has no split {split!r}: wanted one of {', '.join(self.splits)}")
        metadata = find_metadata(root)
        masks = root / SEGMENTATIONS if (root / SEGMENTATIONS).is_dir() else None
        rows = [row for row in read_metadata(metadata) if SPLITS[row.split] == split]
        if not rows:
            raise UserError(f"{metadata} has no image of split {split}; take it whole from {SOURCE}")
        samples = [_sample(row, metadata.parent, masks) for row in rows]
        require_files(self.title, [sample.image for sample in samples], SOURCE)
        require_files(f"{self.title}, masks", [sample.mask for sample in samples if sample.mask], MASKS_SOURCE)
        return samples

    def train_group_counts(self, root: Path) -> np.ndarray:
        """Returns the training images of each group by metadata.csv, int64 (4,): weights of group_DRO's average."""
        rows = read_metadata(find_metadata(root))
        return group_counts(group_of(row.label, row.background) for row in rows if SPLITS[row.split] == "train")

    def count_warning(self, split: str, samples: Sequence[BirdSample]) -> str:
        """Returns a sentence where the groups of a split have not their official numbers of images, else ""."""
        counts = tuple(group_counts(sample.group for sample in samples).tolist())
        if counts == self.splits[split]:
            return ""
        return (
            f"{self.title} {split} has {self.splits[split]} images a group, here are {counts}: "
            "the numbers compare with no published ones"
        )


def _sample(row: BirdRow, images: Path, masks: Path | None) -> BirdSample:
    file = Path(row.file_name)
    mask = str(masks / file.with_suffix(".png")) if masks else None
    return BirdSample(file.with_suffix("").as_posix(), str(images / file), mask, row.label, row.background)


def region_note(samples: Sequence[BirdSample]) -> str:
    """Returns what the region of these samples is, to be said with their number."""
    if all(sample.mask for sample in samples):
        return "The region is the bird, by CUB's masks."
    return f"The region is the whole image: there is no {SEGMENTATIONS} folder; CUB's masks are {MASKS_SOURCE}."


WATERBIRDS = WaterbirdsBenchmark(
    name="waterbirds",
    title="Waterbirds",
    classes=CLASSES,
    groups=GROUPS,
    splits={
        "train": (3498, 184, 56, 1057),
        "val": (467, 466, 133, 133),
        "test": (2255, 2255, 642, 642),
    },
    default_split="test",
    notes=(
        "Two class prompts on the bird's region. Two averages: over the images of the split, and group_DRO's, the "
        "accuracies of the groups weighted by their shares of the training images; and the worst group. Which of them, "
        "with which masks and prompts, the 72 is that a table gives for OVSeg, is not known."
    ),
)
