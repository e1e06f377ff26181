"""Images whose regions have known classes: what accuracy is measured on, during training and after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovseg_model.datasets.scene_check import SIZE_PX
from ovseg_model.datasets.scene_files import CLASSES_FILE, IMAGES, INSTANCES, LABELS
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import LEAST_VISIBLE, STYLES, VOID, draw_scene, numbers
from schemas.errors import UserError

SCENES = "scenes"


@dataclass(frozen=True)
class LabelledImage:
    """One image and its regions."""

    image_HW3: np.ndarray
    """RGB uint8."""

    masks_NHW: np.ndarray
    """bool, none empty."""

    truth_N: np.ndarray
    """int64: position of each region's class in the set's `classes`."""


@dataclass(frozen=True)
class LabelledSet:
    """Classes in order, and images that may be gone through again and again."""

    name: str
    classes: tuple[str, ...]
    images: Callable[[], Iterator[LabelledImage]]


def open_labelled_set(name: str, limit: int) -> LabelledSet:
    """Returns the labelled set of a name.

    name: "scenes", drawn from the test split; "scenes:ink", in the style that the small CLIP has not seen; or a folder
    as `ovseg draw-scenes` writes it: images/, instances/ and labels/ of the same file names, and classes.json. limit:
    images, the first in order of name. Raises UserError for a name that is none of them.
    """
    if name.partition(":")[0] == SCENES:
        return _drawn_scenes(name, limit)
    return _scene_folder(Path(name), limit)


def _drawn_scenes(name: str, limit: int) -> LabelledSet:
    style = name.partition(":")[2] or STYLES[0]
    if style not in STYLES:
        raise UserError(f"labelled set {name}: wanted one of {', '.join(f'{SCENES}:{each}' for each in STYLES)}")

    def images() -> Iterator[LabelledImage]:
        for number in numbers("test", limit):
            scene = draw_scene(number, SIZE_PX, style)
            yield labelled_image(scene.image_HW3, scene.labels_HW, scene.instances_HW)

    return LabelledSet(name, NAMES, images)


def labelled_image(image_HW3: np.ndarray, labels_HW: np.ndarray, instances_HW: np.ndarray) -> LabelledImage:
    """Returns the regions of an image, by its maps: one an instance of LEAST_VISIBLE of the image or more.

    labels_HW: integers, VOID where there is no class. instances_HW: integers, 0 where there is none; an instance has
    one label.
    """
    numbers, areas = np.unique(instances_HW[instances_HW > 0], return_counts=True)
    masks_NHW = instances_HW == numbers[areas >= LEAST_VISIBLE * instances_HW.size][:, None, None]
    truth_N = np.array([labels_HW[mask_HW][0] for mask_HW in masks_NHW], np.int64)
    return LabelledImage(image_HW3, masks_NHW[truth_N != VOID], truth_N[truth_N != VOID])


def _scene_folder(folder: Path, limit: int) -> LabelledSet:
    from PIL import Image

    if not (folder / CLASSES_FILE).is_file():
        raise UserError(
            f"labelled set {folder}: wanted {SCENES}, {SCENES}:ink or a folder with {CLASSES_FILE}, {IMAGES}/, "
            f"{LABELS}/ and {INSTANCES}/, as ovseg draw-scenes writes it"
        )
    classes = tuple(each["name"] for each in json.loads((folder / CLASSES_FILE).read_text()))
    names = sorted(path.name for path in (folder / IMAGES).iterdir())[:limit]

    def images() -> Iterator[LabelledImage]:
        for name in names:
            maps = [np.asarray(Image.open(folder / kind / name)) for kind in (IMAGES, LABELS, INSTANCES)]
            yield labelled_image(*maps)

    return LabelledSet(str(folder), classes, images)
