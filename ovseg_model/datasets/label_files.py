"""Label files of data sets, and the images they belong to: found in pairs, read as stored, refused in one sentence.

Array names end in their axes: H and W pixels, 3 colour channels in RGB order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ovseg_model.datasets.benchmark import IGNORE, BenchmarkClass, LabelledSample, positions_by_raw_id
from schemas.errors import UserError

INDEX_MODES = {"P": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16}
"""Pillow's modes whose pixels are whole numbers without a colour: palette, grey, 16-bit grey of either byte order."""

RAW_VALUES = 2**16
"""Raw values have 16 bits at most."""


class Release(NamedTuple):
    """Who speaks in a message, and where the files come from."""

    benchmark: str
    origin: str

    def error(self, what: str) -> UserError:
        """The sentence about files that are missing or wrong."""
        return UserError(f"{self.benchmark}: {what}; the files come from {self.origin}")


def find_home(root: Path, names: Sequence[str], holds: str, release: Release) -> Path:
    """Returns the first folder that holds a folder or file, of root itself and `names` below it.

    Raises UserError naming all that were looked at.
    """
    homes = [root, *(root / name for name in names)]
    for home in homes:
        if (home / holds).exists():
            return home
    places = " nor ".join(str(home) for home in homes)
    raise release.error(f"{holds} is missing: it is neither in {places}")


def require_folder(folder: Path, release: Release) -> Path:
    """Returns the folder. Raises UserError where it is none."""
    if not folder.is_dir():
        raise release.error(f"the folder {folder} is missing")
    return folder


def read_list(path: Path) -> list[str]:
    """Returns the names that a list of a split holds, one a line. Raises UserError for a file that is no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of names: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def pair_listed(
    stems: Sequence[str], images: Path, labels: Path, label_ending: str, release: Release, image_ending: str = ".jpg"
) -> list[LabelledSample]:
    """Returns a sample a name, in order, of the files images/NAME and labels/NAME with their endings.

    Raises UserError naming the first of all these files that is missing.
    """
    endings = ((images, image_ending), (labels, label_ending))
    there = {folder: set(os.listdir(require_folder(folder, release))) for folder, _ in endings}
    for stem in stems:
        for folder, ending in endings:
            if stem + ending not in there[folder]:
                raise release.error(f"{folder / (stem + ending)} is missing")
    return [LabelledSample(stem, *(f"{folder / stem}{ending}" for folder, ending in endings)) for stem in stems]


def pair_images(images: Path, labels: Path, label_ending: str, release: Release) -> list[LabelledSample]:
    """Returns a sample a JPEG of `images`, in order of name. Raises UserError naming the first file that is missing."""
    names = sorted(name for name in os.listdir(require_folder(images, release)) if name.endswith(".jpg"))
    if not names:
        raise release.error(f"{images} holds no *.jpg")
    return pair_listed([name.removesuffix(".jpg") for name in names], images, labels, label_ending, release)


def read_rgb(path: str) -> np.ndarray:
    """Returns an image, RGB uint8 (H, W, 3), pixels as stored. Raises UserError for a file that is none.

    EXIF orientation is not applied, because label maps are drawn over the pixels as they are stored.
    """
    return of_picture(path, lambda image: np.asarray(image.convert("RGB")))


def read_sample_image(sample: LabelledSample) -> np.ndarray:
    """Returns the image of a sample, as `read_rgb`."""
    return read_rgb(sample.image)


def read_indices(path: str) -> np.ndarray:
    """Returns the whole numbers of a palette or grey picture, uint8 or, of 16 bits, uint16 (H, W).

    Raises UserError for a file that is no picture, and for one of colours, which may be a rendering of the labels.
    """
    mode, values_HW = of_picture(path, lambda image: (image.mode, np.asarray(image)))
    if mode not in INDEX_MODES:
        raise UserError(
            f"label map {path}: wanted numbers of classes (a picture of Pillow's mode {', '.join(INDEX_MODES)}), "
            f"got mode {mode}; give the file of the release"
        )
    return values_HW.astype(INDEX_MODES[mode])


def check_frame(labels_HW: np.ndarray, sample: LabelledSample) -> None:
    """Raises UserError where a label map has not its image's size, by the image's header."""
    width, height = of_picture(sample.image, lambda image: image.size)
    if labels_HW.shape != (height, width):
        raise UserError(
            f"label map {sample.labels}: wanted {height} x {width} pixels (height x width) as {sample.image}, got "
            f"{' x '.join(map(str, labels_HW.shape))}; both must come from one release"
        )


def of_picture(path: str, read: Callable[[Image.Image], Any]) -> Any:
    """Returns what `read` makes of a picture. Raises UserError for a file that is none, or is cut short."""
    try:
        with Image.open(path) as image:
            return read(image)
    except Exception as error:  # decoders raise whatever the bytes provoke
        raise UserError(f"{path} cannot be read as a picture: {error}; fetch it again") from error


@dataclass(frozen=True)
class Coding:
    """What the raw values of a label file mean."""

    positions_R: np.ndarray
    """uint16: position of each raw value, IGNORE where it is no class."""

    largest: int
    """No raw value is larger, but for `void`: others tell of another release, or of a map converted before."""

    void: int | None = None
    """Raw value of pixels without a label, beside those that are no class."""

    def positions(self, raw_HW: np.ndarray, path: str) -> np.ndarray:
        """Returns positions of raw values, unsigned integers; uint16 (H, W). Raises UserError for unknown ones."""
        wrong_HW = raw_HW > self.largest
        if self.void is not None:
            wrong_HW &= raw_HW != self.void
        if wrong_HW.any():
            void = "" if self.void is None else f", or {self.void}"
            raise UserError(
                f"label map {path}: wanted values from 0 to {self.largest}{void}, got {raw_HW[wrong_HW][0]}; "
                "give the file of the release, not one that was converted for another program"
            )
        return self.positions_R[raw_HW]


def coding_of(classes: Sequence[BenchmarkClass], largest: int, void: int | None = None) -> Coding:
    """Returns the coding of a data set's own files: raw ids as the class table has them."""
    return Coding(positions_by_raw_id(classes, RAW_VALUES), largest, void)


def converted_coding(order: Sequence[int], void: int) -> Coding:
    """Returns the coding of files that another program converted: value i is the class at position order[i]."""
    positions_R = np.full(RAW_VALUES, IGNORE, np.uint16)
    positions_R[: len(order)] = order
    return Coding(positions_R, len(order) - 1, void)


def read_coded(sample: LabelledSample, coding: Coding) -> np.ndarray:
    """Returns the label map of a picture of raw values, uint16 (H, W), of its image's size. Raises UserError."""
    labels_HW = coding.positions(read_indices(sample.labels), sample.labels)
    check_frame(labels_HW, sample)
    return labels_HW
