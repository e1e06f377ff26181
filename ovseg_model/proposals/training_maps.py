"""Images with label maps to train a proposal network on: a benchmark's, folders of one's own, panoptic, or scenes.

Everything here reads one image at a time, by number, and can be pickled for worker processes. Array names end in
their axes: H and W pixels, 3 colour channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ovseg_model.datasets.benchmark import IGNORE, LabelledSample, LabelMapBenchmark, open_label_map_benchmark
from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.images import decode_image, read_image_bytes
from ovseg_model.proposals.annotations import BadAnnotationError, decode_map
from schemas.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAP_ENDINGS = (".png", ".tif", ".tiff")

SCENES = "scenes"
"""Name of drawn scenes, which need no files."""

SCENES_TRAINED = 10_000
"""Scenes that training draws from, when they are drawn: more than a tiny network can learn by heart."""


class TrainingMaps(Protocol):
    """Images and their label maps, by number."""

    classes: tuple[str, ...]
    """Names, in the order of labels."""

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns image, RGB uint8 (H, W, 3), and label map, uint16 (H, W): positions in `classes`, or IGNORE.

        Raises UserError, naming the file, for one that cannot be read or maps of another size than their image.
        """
        ...

    def fingerprint(self) -> dict[str, object]:
        """What decides the images and labels; names and sizes of files, not their bytes."""
        ...


@dataclass(frozen=True)
class BenchmarkMaps:
    """Samples with the classes and the label files of a benchmark."""

    benchmark: LabelMapBenchmark
    samples: Sequence[LabelledSample]

    @property
    def classes(self) -> tuple[str, ...]:
        """As `TrainingMaps`."""
        return self.benchmark.names()

    def __len__(self) -> int:
        """As `TrainingMaps`."""
        return len(self.samples)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TrainingMaps`."""
        sample = self.samples[number]
        pair = self.benchmark.read_image(sample), self.benchmark.read_labels(sample)
        return checked(*pair, sample.labels)

    def fingerprint(self) -> dict[str, object]:
        """As `TrainingMaps`."""
        return {"benchmark": self.benchmark.name, "samples": sha256_of_files(self.samples)}


@dataclass(frozen=True)
class FolderMaps:
    """Images and label maps of one's own; a label is the position of its class, anything beyond is ignored."""

    classes: tuple[str, ...]
    samples: Sequence[LabelledSample]

    def __len__(self) -> int:
        """As `TrainingMaps`."""
        return len(self.samples)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TrainingMaps`."""
        sample = self.samples[number]
        labels_HW = read_map(sample.labels, is_panoptic=False).astype(np.uint16)
        labels_HW[labels_HW >= len(self.classes)] = IGNORE
        return checked(read_rgb(sample.image), labels_HW, sample.labels)

    def fingerprint(self) -> dict[str, object]:
        """As `TrainingMaps`."""
        return {"classes": list(self.classes), "samples": sha256_of_files(self.samples)}


@dataclass(frozen=True)
class PanopticMaps:
    """COCO's panoptic layout: PNGs of segment ids, and a JSON that gives each segment its category."""

    classes: tuple[str, ...]
    samples: Sequence[LabelledSample]
    segments: Sequence[tuple[np.ndarray, np.ndarray]]
    """Of each sample: segment ids, ascending, and positions of their classes, uint16."""

    def __len__(self) -> int:
        """As `TrainingMaps`."""
        return len(self.samples)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TrainingMaps`."""
        sample, (ids, classes) = self.samples[number], self.segments[number]
        found_HW = read_map(sample.labels, is_panoptic=True)
        if not len(ids):
            return checked(read_rgb(sample.image), np.full(found_HW.shape, IGNORE, np.uint16), sample.labels)
        at_HW = np.searchsorted(ids, found_HW).clip(max=len(ids) - 1)
        labels_HW = np.where(ids[at_HW] == found_HW, classes[at_HW], IGNORE).astype(np.uint16)
        return checked(read_rgb(sample.image), labels_HW, sample.labels)

    def fingerprint(self) -> dict[str, object]:
        """As `TrainingMaps`."""
        digest = hashlib.sha256()
        for ids, classes in self.segments:
            digest.update(ids.tobytes() + classes.tobytes())
        listed = {"classes": list(self.classes), "samples": sha256_of_files(self.samples)}
        return {**listed, "segments": digest.hexdigest()}


@dataclass(frozen=True)
class SceneMaps:
    """Drawn scenes, drawn anew whenever they are read."""

    numbers: range
    size_px: int = 64

    @property
    def classes(self) -> tuple[str, ...]:
        """As `TrainingMaps`."""
        from ovseg_model.datasets.scene_nouns import NAMES

        return tuple(NAMES)

    def __len__(self) -> int:
        """As `TrainingMaps`."""
        return len(self.numbers)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TrainingMaps`."""
        from ovseg_model.datasets.scenes import draw_scene

        scene = draw_scene(self.numbers[number], self.size_px)
        labels_HW = scene.labels_HW.astype(np.uint16)
        labels_HW[labels_HW >= len(self.classes)] = IGNORE
        return scene.image_HW3, labels_HW

    def fingerprint(self) -> dict[str, object]:
        """As `TrainingMaps`."""
        return {"scenes": [self.numbers.start, self.numbers.stop], "size_px": self.size_px}


# Reading.


def checked(image_HW3: np.ndarray, labels_HW: np.ndarray, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns both. Raises UserError where their sizes differ."""
    if image_HW3.shape[:2] != labels_HW.shape:
        raise UserError(
            f"{place}: the label map is {labels_HW.shape[0]} x {labels_HW.shape[1]}, its image "
            f"{image_HW3.shape[0]} x {image_HW3.shape[1]} (height x width); they must be equal"
        )
    return image_HW3, labels_HW


def read_rgb(path: str) -> np.ndarray:
    """Returns an image, RGB uint8 (H, W, 3), EXIF orientation applied. Raises UserError."""
    options = FetchOptions()
    try:
        return decode_image(read_image_bytes(path, options), options)
    except ImageError as error:
        raise UserError(
            f"{path}: cannot be read as an image: {error}; remove it together with its label map"
        ) from error


def read_map(path: str, is_panoptic: bool) -> np.ndarray:
    """Returns labels, or panoptic ids, (H, W). Raises UserError."""
    try:
        return decode_map(Path(path).read_bytes(), is_panoptic)
    except (OSError, BadAnnotationError) as error:
        raise UserError(f"{path}: cannot be read as a label map: {error}; remove it and its image") from error


# Finding.


@dataclass(frozen=True)
class MapPlaces:
    """Where training finds its images and labels, as the command line says it."""

    benchmark: str = ""
    """Name of a benchmark, whose classes and label files these are; or SCENES, drawn."""

    data: str = ""
    """Folder in which the benchmark finds its own samples."""

    images: str = ""
    labels: str = ""
    """Folders of images, and of label maps of the same names."""

    classes: str = ""
    """File of class names, one a line, in the order of labels."""

    panoptic_json: str = ""
    """Then `labels` holds panoptic PNGs."""


def open_maps(places: MapPlaces, scene_px: int = 64) -> TrainingMaps:
    """Finds what to train on. Raises UserError for places that do not go together, or where nothing is."""
    if places == MapPlaces(benchmark=SCENES):
        from ovseg_model.datasets.scenes import numbers

        return SceneMaps(numbers("train", SCENES_TRAINED), scene_px)
    if places.data:
        _require(places, "benchmark", unwanted=("images", "labels", "classes", "panoptic_json"))
        benchmark = open_label_map_benchmark(places.benchmark)
        return BenchmarkMaps(benchmark, benchmark.find_samples(Path(places.data)))
    if places.benchmark:
        _require(places, "images", "labels", unwanted=("classes", "panoptic_json"))
        return BenchmarkMaps(open_label_map_benchmark(places.benchmark), pair_files(places.images, places.labels))
    if places.panoptic_json:
        _require(places, "images", "labels", unwanted=("classes",))
        return open_panoptic(places.panoptic_json, places.images, places.labels)
    _require(places, "images", "labels", "classes")
    return FolderMaps(read_class_names(places.classes), pair_files(places.images, places.labels))


def _require(places: MapPlaces, *names: str, unwanted: Sequence[str] = ()) -> None:
    given = dataclasses.asdict(places)
    missing = [name for name in names if not given[name]]
    extra = [name for name in unwanted if given[name]]
    if missing or extra:
        wrong = f"{_flags(missing)} missing" if missing else f"{_flags(extra)} too many"
        raise UserError(
            f"training data: {wrong}; give --benchmark scenes, --benchmark with --data or with --images and --labels, "
            "--images and --labels with --panoptic-json, or --images and --labels with --classes"
        )


def _flags(names: Sequence[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def read_class_names(path: str) -> tuple[str, ...]:
    """Returns the names of a file, one a line. Raises UserError for a file without any, an empty line, or a repeat."""
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path}: cannot be read: {error}") from error
    stripped = [name.strip() for name in names]
    if not stripped or not all(stripped) or len(set(stripped)) < len(stripped):
        raise UserError(f"--classes {path}: wanted one name a line, none empty and none twice; line N is label N - 1")
    return tuple(stripped)


def pair_files(images: str, labels: str) -> list[LabelledSample]:
    """Returns the images of a folder that have a label map of their name in another, by name.

    Raises UserError where a folder cannot be listed, or a map has no image. Images without a map are left out.
    """
    by_stem = _by_stem(images, IMAGE_ENDINGS, "--images")
    maps = _by_stem(labels, MAP_ENDINGS, "--labels")
    alone = sorted(maps.keys() - by_stem.keys())
    if alone:
        raise UserError(
            f"--labels {labels}: {maps[alone[0]]} and {len(alone) - 1} more have no image of their name in {images}"
        )
    return [
        LabelledSample(stem, os.path.join(images, by_stem[stem]), os.path.join(labels, maps[stem]))
        for stem in sorted(maps)
    ]


def _by_stem(folder: str, endings: Sequence[str], flag: str) -> dict[str, str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{flag} {folder}: cannot be listed: {error}") from error
    found = {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(tuple(endings))}
    if not found:
        raise UserError(f"{flag} {folder}: wanted files that end in {', '.join(endings)}, found none")
    return found


def open_panoptic(document: str, images: str, labels: str) -> PanopticMaps:
    """Reads a panoptic JSON; classes are its categories, in its order. Raises UserError for another layout."""
    try:
        with open(document, encoding="utf-8") as file:
            found = json.load(file)
        classes = tuple(category["name"] for category in found["categories"])
        position = {category["id"]: at for at, category in enumerate(found["categories"])}
        annotated = sorted(found["annotations"], key=lambda annotation: annotation["file_name"])
        segments = [_segments(annotation["segments_info"], position) for annotation in annotated]
        names = [annotation["file_name"] for annotation in annotated]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--panoptic-json {document}: wanted categories (id, name) and annotations (file_name, segments_info with "
            f"id and category_id): {type(error).__name__}: {error}"
        ) from error
    by_stem = _by_stem(images, IMAGE_ENDINGS, "--images")
    return PanopticMaps(classes, [_panoptic_sample(name, images, labels, by_stem) for name in names], segments)


def _segments(listed: Sequence[Mapping[str, int]], position: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([segment["id"] for segment in listed], np.int64)
    classes = np.array([position[segment["category_id"]] for segment in listed], np.uint16)
    order = np.argsort(ids, kind="stable")
    return ids[order], classes[order]


def _panoptic_sample(name: str, images: str, labels: str, by_stem: Mapping[str, str]) -> LabelledSample:
    stem = os.path.splitext(name)[0]
    if stem not in by_stem:
        raise UserError(f"--images {images}: has no image {stem}, which the panoptic JSON lists")
    return LabelledSample(stem, os.path.join(images, by_stem[stem]), os.path.join(labels, name))


def sha256_of_files(samples: Sequence[LabelledSample]) -> str:
    """Returns the sha256 of names and label files' sizes: cheap, and an edit in place to the same size goes unnoticed.

    A label file that is not there counts as empty: reading it will say so.
    """
    digest = hashlib.sha256()
    for sample in samples:
        size = os.path.getsize(sample.labels) if os.path.isfile(sample.labels) else 0
        digest.update(f"{sample.name}\t{size}\n".encode())
    return digest.hexdigest()
