"""Images whose regions have known classes: what accuracy is measured on, during training and after.

Array names end in their axes: N regions, H and W pixels, 3 colour channels in RGB order.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ovseg_model.datasets.benchmark import (
    IGNORE,
    LABEL_MAP_BENCHMARKS,
    LabelMapBenchmark,
    check_count,
    open_label_map_benchmark,
)
from ovseg_model.datasets.coco_instances import CocoAnnotation, CocoImage, CocoInstances, read_instances
from ovseg_model.datasets.dataset_files import read_image, require_files
from ovseg_model.datasets.scene_check import SIZE_PX
from ovseg_model.datasets.scene_files import CLASSES_FILE, IMAGES, INSTANCES, LABELS
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.datasets.scenes import LEAST_VISIBLE, STYLES, VOID, draw_scene, numbers
from ovseg_model.rle import Rle, areas_px, decode_masks
from schemas.errors import UserError

SCENES, COCO = "scenes", "coco"

DRAWN_IMAGES = 2_000
"""Drawn scenes that are taken where no limit is given: they have no end."""

FORMS = (
    f"{SCENES}, {SCENES}:ink, {COCO}:INSTANCES.json:IMAGES_FOLDER, BENCHMARK@ROOT (BENCHMARK one of "
    f"{', '.join(LABEL_MAP_BENCHMARKS)}), or a folder with {CLASSES_FILE}, {IMAGES}/, {LABELS}/ and {INSTANCES}/, as "
    "ovseg draw-scenes writes it"
)
"""How a labelled set is named."""


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
    samples: tuple[str, ...]
    """Names of the images that are taken, in order."""

    there: int | None
    """Images that could be taken; None of drawn scenes, which have no end."""

    read: Callable[[int], LabelledImage]
    """The image of a position in `samples`. Raises UserError for files that are missing or wrong."""

    warning: str | None = None
    """What must be said of the number of images that are there."""

    def images(self) -> Iterator[LabelledImage]:
        """Yields the images in order, each read as it is asked for."""
        return map(self.read, range(len(self.samples)))


def open_labelled_set(name: str, limit: int | None) -> LabelledSet:
    """Returns the labelled set of a name.

    name: "scenes", drawn from the test split; "scenes:ink", in the style that the small CLIP has not seen;
    "coco:INSTANCES.json:IMAGES_FOLDER", a region an annotation, crowds left out; "BENCHMARK@ROOT", such as
    "ade20k-150@data", a region for each class that an image has, as in OVSeg's own check while it trains
    (`ade_gt_150cls_val` of its release); or a folder as `ovseg draw-scenes` writes it: images/, instances/ and labels/
    of the same file names, and classes.json. limit: images, the first in order of name; None
    takes all, and of drawn scenes DRAWN_IMAGES. Raises UserError for a name
    that is none of them, and for files that are missing or wrong.
    """
    kind, _, rest = name.partition(":")
    if kind == SCENES:
        return _drawn_scenes(name, limit)
    if kind == COCO:
        return _coco(name, rest, limit)
    benchmark, at, root = name.partition("@")
    if at and benchmark in LABEL_MAP_BENCHMARKS:
        return label_map_regions(open_label_map_benchmark(benchmark), Path(root), limit)
    return _scene_folder(Path(name), limit)


def _drawn_scenes(name: str, limit: int | None) -> LabelledSet:
    style = name.partition(":")[2] or STYLES[0]
    if style not in STYLES:
        raise UserError(f"labelled set {name}: wanted one of {', '.join(f'{SCENES}:{each}' for each in STYLES)}")

    chosen = numbers("test", limit or DRAWN_IMAGES)

    def read(position: int) -> LabelledImage:
        scene = draw_scene(chosen[position], SIZE_PX, style)
        return labelled_image(scene.image_HW3, scene.labels_HW, scene.instances_HW)

    return LabelledSet(name, NAMES, tuple(map(str, chosen)), None, read)


def labelled_image(image_HW3: np.ndarray, labels_HW: np.ndarray, instances_HW: np.ndarray) -> LabelledImage:
    """Returns the regions of an image, by its maps: one an instance of LEAST_VISIBLE of the image or more.

    labels_HW: integers, VOID where there is no class. instances_HW: integers, 0 where there is none; an instance has
    one label.
    """
    numbers, areas = np.unique(instances_HW[instances_HW > 0], return_counts=True)
    masks_NHW = instances_HW == numbers[areas >= LEAST_VISIBLE * instances_HW.size][:, None, None]
    truth_N = np.array([labels_HW[mask_HW][0] for mask_HW in masks_NHW], np.int64)
    return LabelledImage(image_HW3, masks_NHW[truth_N != VOID], truth_N[truth_N != VOID])


def _scene_folder(folder: Path, limit: int | None) -> LabelledSet:
    from PIL import Image

    if not (folder / CLASSES_FILE).is_file():
        raise UserError(f"labelled set {folder}: wanted {FORMS}")
    classes = _class_names(folder / CLASSES_FILE)
    there = sorted(path.name for path in (folder / IMAGES).glob("*.png"))
    names = there[:limit]
    _require_maps(folder, names)

    def picture(kind: str, name: str) -> np.ndarray:
        try:
            with Image.open(folder / kind / name) as opened:
                return np.asarray(opened)
        except OSError as error:
            raise UserError(f"{folder / kind / name}: cannot be read ({error}); draw the scenes again") from error

    def read(position: int) -> LabelledImage:
        return labelled_image(*(picture(kind, names[position]) for kind in (IMAGES, LABELS, INSTANCES)))

    return LabelledSet(str(folder), classes, tuple(names), len(there), read)


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(each["name"] for each in json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}); draw the scenes again") from error


def _require_maps(folder: Path, names: Sequence[str]) -> None:
    """Refuses a folder without images, and one that lacks a map, before anything is measured on it."""
    if not names:
        raise UserError(f"labelled set {folder}: there is no image in {folder / IMAGES}; draw the scenes again")
    for kind in (LABELS, INSTANCES):
        missing = next((name for name in names if not (folder / kind / name).is_file()), None)
        if missing:
            raise UserError(f"labelled set {folder}: {folder / kind / missing} is missing; draw the scenes again")


def label_map_regions(benchmark: LabelMapBenchmark, root: Path, limit: int | None) -> LabelledSet:
    """Returns a benchmark's label maps as regions: one a class that an image has, in the order of the classes.

    Images of which nothing is labelled have none. Raises UserError for files that are missing, here or once they are
    read.
    """
    there = benchmark.find_samples(root)
    samples = there[:limit]

    def read(position: int) -> LabelledImage:
        sample = samples[position]
        return regions_of_classes(benchmark.read_image(sample), benchmark.read_labels(sample))

    names = tuple(sample.name for sample in samples)
    warning = check_count(benchmark, len(there))
    return LabelledSet(f"{benchmark.name}@{root}", benchmark.names(), names, len(there), read, warning)


def regions_of_classes(image_HW3: np.ndarray, labels_HW: np.ndarray) -> LabelledImage:
    """Returns a region for each class of a converted label map, uint16 with IGNORE, whatever its size."""
    labels_N = np.unique(labels_HW)
    labels_N = labels_N[labels_N != IGNORE]
    return LabelledImage(image_HW3, labels_HW == labels_N[:, None, None], labels_N.astype(np.int64))


def _coco(name: str, places: str, limit: int | None) -> LabelledSet:
    json_path, _, folder = places.rpartition(":")
    if not json_path or not folder:
        raise UserError(f"labelled set {name}: wanted {COCO}:INSTANCES.json:IMAGES_FOLDER")
    return coco_regions(name, read_instances(Path(json_path)), Path(folder), limit)


def coco_regions(name: str, instances: CocoInstances, folder: Path, limit: int | None) -> LabelledSet:
    """Returns the annotations of a COCO JSON as regions; its categories, in their order, are the classes.

    Crowds are left out, as are masks without a pixel and images without a mask: there is nothing to recognise. Raises
    UserError for two categories of one name, annotations that are no masks, and images that are missing.
    """
    classes = _distinct_names(instances)
    chosen = list(itertools.islice(_annotated_images(instances), limit))
    places = [str(folder / each.image.file_name) for each in chosen]
    require_files(f"labelled set {name}", places, f"where {instances.path} comes from")

    def read(position: int) -> LabelledImage:
        each = chosen[position]
        return LabelledImage(_read_as_stated(places[position], each.image), decode_masks(each.masks), each.truth_N)

    names = tuple(each.image.file_name for each in chosen)
    there = len(names) if limit is None else len(_annotations_by_image(instances))
    return LabelledSet(name, classes, names, there, read)


class _AnnotatedImage(NamedTuple):
    """An image and its masks that count, none empty; int64 positions of their categories."""

    image: CocoImage
    masks: list[Rle]
    truth_N: np.ndarray


def _distinct_names(instances: CocoInstances) -> tuple[str, ...]:
    names = tuple(instances.categories.values())
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(f"{instances.path}: two categories are called {twice[0]!r}, so no prompt tells them apart")
    return names


def _annotated_images(instances: CocoInstances) -> Iterator[_AnnotatedImage]:
    """Yields images that have a mask, by file name; masks are drawn only as far as they are asked for."""
    positions = {category_id: position for position, category_id in enumerate(instances.categories)}
    for image, regions in sorted(_annotations_by_image(instances).items()):
        masks = [instances.mask_of(each) for each in regions]
        truth_N = np.array([_position(positions, instances, each) for each in regions], np.int64)
        seen_N = areas_px(masks) > 0
        if seen_N.any():
            yield _AnnotatedImage(image, list(itertools.compress(masks, seen_N)), truth_N[seen_N])


def _annotations_by_image(instances: CocoInstances) -> dict[CocoImage, list[CocoAnnotation]]:
    """Annotations that are no crowds, by their images."""
    by_image: dict[CocoImage, list[CocoAnnotation]] = {}
    for annotation in instances.annotations:
        if not annotation.is_crowd:
            by_image.setdefault(instances.image_of(annotation), []).append(annotation)
    return by_image


def _position(positions: Mapping[int, int], instances: CocoInstances, annotation: CocoAnnotation) -> int:
    if annotation.category_id not in positions:
        raise UserError(
            f"{instances.path}: annotation {annotation.id} is of category {annotation.category_id}, "
            "which is not among the file's categories"
        )
    return positions[annotation.category_id]


def _read_as_stated(place: str, image: CocoImage) -> np.ndarray:
    image_HW3 = read_image(place)
    if image_HW3.shape[:2] != (image.height, image.width):
        raise UserError(
            f"image {place} is {image_HW3.shape[0]} x {image_HW3.shape[1]}, its annotations are of "
            f"{image.height} x {image.width} (height x width); take both from one release"
        )
    return image_HW3
