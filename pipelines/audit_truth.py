"""What people say of images, for `ovseg audit`: COCO instances, label maps with class names, or scenes' own truth.

All become one thing: the pixels of each label, as RLE, and the single things that should be found. Labels are numbered
by their position in `names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ovseg_model.rle import Rle, cover_matrix, encode_labels, union_mask
from pipelines.judge_pairs import read_truth
from schemas import UserError

if TYPE_CHECKING:
    from ovseg_model.datasets.coco_instances import CocoAnnotation, CocoInstances

LabelNames = tuple[tuple[str, ...], ...]
"""Names of each label, the first its title."""

NO_LABEL = -1
"""Seen under a mask that lies on nothing labelled."""


class ImageTruth(NamedTuple):
    """What is labelled in one image."""

    size: tuple[int, int]
    """(H, W) in pixels; masks are in this frame."""

    labels: tuple[int, ...]
    """That occur, ascending, each once."""

    regions: tuple[Rle, ...]
    """All pixels of each of them."""

    thing_labels: tuple[int, ...]
    """One a thing; a label's things make up its region, or a part of it."""

    things: tuple[Rle, ...]
    """The things that a miner should find: annotations that are no crowds, or a label's region where none are told."""


class Truth(Protocol):
    """A set of human labels."""

    names: LabelNames

    def describe(self) -> dict[str, Any]:
        """What audit.json says of it, plain values."""

    def image(self, image_id: str, image_uri: str) -> ImageTruth | None:
        """The labels of an image; None where the set does not have it."""


def labels_under(masks: Sequence[Rle], truth: ImageTruth, min_cover: float) -> np.ndarray:
    """The label under each mask, int64 (N,): the one with most of its pixels, NO_LABEL where it lies on none.

    It lies on none when less than the share `min_cover` of its pixels have a label, or when more of them have none
    than have the label of most. Of labels with equally many the first counts.

    Raises:
        ValueError: the masks are not of the truth's size.
    """
    if not masks or not truth.regions:
        return np.full(len(masks), NO_LABEL)
    shares_NL = cover_matrix(masks, truth.regions)
    covered_N = cover_matrix(masks, [union_mask(truth.regions)])[:, 0]
    is_labelled_N = (covered_N >= min_cover) & (1 - covered_N <= shares_NL.max(axis=1))
    return np.where(is_labelled_N, np.asarray(truth.labels)[shares_NL.argmax(axis=1)], NO_LABEL)


def truth_of_things(
    size: tuple[int, int], labels: Sequence[int], masks: Sequence[Rle], is_crowd: Sequence[bool]
) -> ImageTruth:
    """The truth of an image from its things, of which those of one label may overlap; crowds count as pixels only."""
    distinct = tuple(sorted(set(labels)))
    regions = (
        union_mask([mask for mask, its in zip(masks, labels, strict=True) if its == label]) for label in distinct
    )
    single = [number for number, crowd in enumerate(is_crowd) if not crowd]
    things = tuple(labels[number] for number in single), tuple(masks[number] for number in single)
    return ImageTruth(size, distinct, tuple(regions), *things)


def truth_of_map(labels_HW: np.ndarray, classes: int) -> ImageTruth:
    """The truth of a label map, integers (H, W): values from `classes` up have no label.

    A thing is a label's region.
    """
    values, regions = encode_labels(labels_HW)
    kept = [(int(value), region) for value, region in zip(values, regions, strict=True) if value < classes]
    labels, regions = tuple(value for value, _ in kept), tuple(region for _, region in kept)
    return ImageTruth(labels_HW.shape, labels, regions, labels, regions)


@dataclass(frozen=True)
class InstancesTruth:
    """A COCO instances JSON, held whole. Images are found by their id, else by the stem of their file's name."""

    instances: CocoInstances
    by_image: Mapping[int, Sequence[CocoAnnotation]]
    image_ids: Mapping[str, int]
    """By the id as text and, where that is no id, by the stem of the file's name."""

    label_of: Mapping[int, int]
    names: LabelNames

    def describe(self) -> dict[str, Any]:
        """What audit.json says of it."""
        facts = {"images": len(self.instances.images), "annotations": len(self.instances.annotations)}
        return {"kind": "annotations", "source": self.instances.path.name, **facts}

    def image(self, image_id: str, image_uri: str) -> ImageTruth | None:
        """The labels of an image; raises UserError for an annotation that is no mask."""
        from ovseg_model.proposals.annotation_index import stem_of

        number = self.image_ids.get(image_id, self.image_ids.get(stem_of(image_uri)))
        if number is None:
            return None
        image, annotations = self.instances.images[number], self.by_image.get(number, ())
        labels = [self.label_of[each.category_id] for each in annotations]
        masks = [self.instances.mask_of(each) for each in annotations]
        return truth_of_things((image.height, image.width), labels, masks, [each.is_crowd for each in annotations])


def open_instances(path: Path) -> InstancesTruth:
    """The truth of a COCO instances JSON; takes memory several times the file's size.

    Raises:
        UserError: the file has another layout, or names a category that it does not list.
    """
    from ovseg_model.datasets.coco_instances import read_instances

    instances = read_instances(path)
    label_of = {category: label for label, category in enumerate(instances.categories)}
    stems = {Path(image.file_name).stem: number for number, image in instances.images.items()}
    ids = {str(number): number for number in instances.images}
    names = tuple((name.strip().lower(),) for name in instances.categories.values())
    return InstancesTruth(instances, annotations_by_image(instances), stems | ids, label_of, names)


def annotations_by_image(instances: CocoInstances) -> dict[int, list[CocoAnnotation]]:
    """The annotations of each image that has some; raises UserError for one whose category the file does not list."""
    by_image: dict[int, list[CocoAnnotation]] = {}
    for each in instances.annotations:
        if each.category_id not in instances.categories:
            raise UserError(
                f"{instances.path}: annotation {each.id} is of category {each.category_id}, which is not among the "
                "file's categories; wanted a whole COCO instances JSON"
            )
        by_image.setdefault(each.image_id, []).append(each)
    return by_image


@dataclass(frozen=True)
class LabelMapTruth:
    """Label maps, found by the stem of the image's file; values from the number of classes up have no label."""

    names: LabelNames
    read: Callable[[str], np.ndarray | None]
    """The label map of a stem, integers (H, W), None where there is none."""

    source: str

    def describe(self) -> dict[str, Any]:
        """What audit.json says of it."""
        return {"kind": "label maps", "source": self.source}

    def image(self, image_id: str, image_uri: str) -> ImageTruth | None:
        """The labels of an image; raises UserError for a map that is none."""
        from ovseg_model.proposals.annotation_index import stem_of

        labels_HW = self.read(stem_of(image_uri))
        return None if labels_HW is None else truth_of_map(labels_HW, len(self.names))


def open_label_maps(folder: str, class_names: str, ignore_labels: Sequence[int]) -> LabelMapTruth:
    """The truth of a folder of label maps, STEM.png for the image STEM.jpg; line N of `class_names` names value N - 1.

    Commas part several names of a class. Pixels of `ignore_labels`, by default the largest value that the file's
    pixels can hold (255 or 65535), have no label.

    Raises:
        UserError: the folder has no maps, or the file no names.
    """
    from ovseg_model.proposals.annotations import sha256_of_listing

    names = read_names(Path(class_names))
    sha256_of_listing(folder)  # refuses a folder without maps

    def read(stem: str) -> np.ndarray | None:
        return read_map(folder, stem, len(names), ignore_labels)

    return LabelMapTruth(names, read, Path(folder).name)


def read_names(path: Path) -> LabelNames:
    """Class names of a file, one class a line, several names of it with commas between.

    Raises:
        UserError: the file cannot be read, or has a line without a name.
    """
    from ovseg_model.class_names import split_names

    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--class-names {path}: cannot be read ({error}); give a text file, one class a line"
        ) from error
    if not lines:
        raise UserError(f"--class-names {path}: holds no name; give a text file, one class a line")
    return tuple(tuple(name.lower() for name in names) for names in split_names(lines, "max"))


def read_map(folder: str, stem: str, classes: int, ignore_labels: Sequence[int]) -> np.ndarray | None:
    """One label map, uint16 (H, W), 65535 where there is no label; None where the folder has none of this stem.

    Raises:
        UserError: the file is no label map, or has a value that no line of the class names stands for.
    """
    from ovseg_model.datasets.benchmark import IGNORE  # 65535
    from ovseg_model.proposals.annotations import BadAnnotationError, decode_map, read_map_file

    data = read_map_file(folder, stem)
    if data is None:
        return None
    try:
        values_HW = decode_map(data, is_panoptic=False)
    except BadAnnotationError as error:
        raise UserError(f"--label-maps {folder}: {stem}: {error}; give the folder of the label maps") from error
    is_ignored_HW = np.isin(values_HW, ignore_labels or (np.iinfo(values_HW.dtype).max,))
    require_named(values_HW[~is_ignored_HW], classes, f"--label-maps {folder}: {stem}")
    return np.where(is_ignored_HW, np.uint16(IGNORE), values_HW)


def require_named(values_N: np.ndarray, classes: int, place: str) -> None:
    """Refuses values of a label map, integers (N,), that no line of the class names stands for; raises UserError."""
    unknown = values_N[values_N >= classes]
    if unknown.size:
        raise UserError(
            f"{place} has the value {unknown[0]}, and --class-names has {classes} lines, for values from 0; give a "
            f"line for every value, or --ignore-label {unknown[0]}"
        )


def open_benchmark_maps(name: str, root: str) -> LabelMapTruth:
    """The truth of a benchmark's label maps, by NAME or NAME:SPLIT; images are found by the stem of their file's name.

    Raises:
        UserError: there is no such benchmark, or its files are not below the root.
    """
    from ovseg_model.datasets.benchmark import open_benchmark_split

    benchmark, split = open_benchmark_split(name)
    samples = {Path(each.image).stem: each for each in benchmark.find_samples(Path(root), split)}
    names = tuple(tuple(part.strip().lower() for part in each.split(",")) for each in benchmark.names())
    return LabelMapTruth(names, lambda stem: benchmark.read_labels(samples[stem]) if stem in samples else None, name)


@dataclass(frozen=True)
class ScenesTruth:
    """A folder of drawn scenes. Clutter is a label too, the last one, which no noun means: this truth has no gaps."""

    folder: Path
    names: LabelNames

    def describe(self) -> dict[str, Any]:
        """What audit.json says of it."""
        return {"kind": "scenes", "source": self.folder.name}

    def image(self, image_id: str, image_uri: str) -> ImageTruth:
        """The classes of a scene and its visible regions; raises UserError where the folder has not this scene."""
        from ovseg_model.datasets.scene_files import INSTANCES, LABELS

        clutter = len(self.names) - 1
        labels_HW = np.minimum(read_truth(self.folder, image_id, LABELS, "--scenes"), clutter)
        values, things = encode_labels(read_truth(self.folder, image_id, INSTANCES, "--scenes"))
        kept = [(value, thing) for value, thing in zip(values, things, strict=True) if value]
        labels = tuple(int(labels_HW.flat[first_pixel(thing)]) for _, thing in kept)
        whole = truth_of_map(labels_HW, len(self.names))
        return whole._replace(thing_labels=labels, things=tuple(thing for _, thing in kept))


def first_pixel(mask: Rle) -> int:
    """Where the first pixel of a mask down its columns lies in an image of rows, H * W counted along them."""
    from ovseg_model.rle import run_lengths

    height, width = mask["size"]
    column, row = divmod(int(run_lengths(mask["counts"])[0]), height)
    return row * width + column


def open_scenes(folder: Path) -> ScenesTruth:
    """The truth of a folder that `ovseg draw-scenes` wrote.

    Raises:
        UserError: it is none.
    """
    from ovseg_model.datasets.scene_files import CLASSES_FILE
    from ovseg_model.datasets.scene_nouns import NAMES

    if not (folder / CLASSES_FILE).is_file():
        raise UserError(f"--scenes {folder}: has no {CLASSES_FILE}; give the folder that ovseg draw-scenes wrote")
    return ScenesTruth(folder, (*((name,) for name in NAMES), ("clutter",)))
