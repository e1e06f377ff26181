"""A COCO instances JSON: images, annotations with masks, and category names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ovseg_model.datasets.dataset_files import read_json
from ovseg_model.proposals.annotations import BadAnnotationError, rasterise
from ovseg_model.rle import Rle
from schemas.errors import UserError


class CocoImage(NamedTuple):
    """An image by its file's name; height and width in pixels."""

    file_name: str
    height: int
    width: int


class CocoAnnotation(NamedTuple):
    """One annotation; `segmentation` as the JSON has it: polygons in pixels, or an RLE."""

    id: int
    image_id: int
    category_id: int
    is_crowd: bool
    segmentation: object


class CocoInstances(NamedTuple):
    """What the file holds, each in the file's order."""

    path: Path
    images: Mapping[int, CocoImage]
    """By id."""

    annotations: tuple[CocoAnnotation, ...]
    categories: Mapping[int, str]
    """Names by id."""

    def image_of(self, annotation: CocoAnnotation) -> CocoImage:
        """Returns the image of an annotation. Raises UserError for one that is not listed."""
        if annotation.image_id not in self.images:
            raise UserError(
                f"{self.path}: annotation {annotation.id} is of image {annotation.image_id}, which is not among the "
                "file's images; wanted a whole COCO instances JSON"
            )
        return self.images[annotation.image_id]

    def mask_of(self, annotation: CocoAnnotation) -> Rle:
        """Returns the mask of an annotation in the frame of its image, by COCO's own rule; it may be empty.

        Raises UserError for an image that is not listed, and for a segmentation that is no mask.
        """
        image = self.image_of(annotation)
        try:
            mask = rasterise(annotation.segmentation, image.height, image.width)
        except BadAnnotationError as error:
            raise UserError(f"{self.path}: annotation {annotation.id}: {error}") from error
        if mask is None:
            raise UserError(f"{self.path}: annotation {annotation.id} has a box only; wanted polygons or an RLE")
        return mask


def read_instances(path: Path) -> CocoInstances:
    """Returns a COCO instances JSON. Raises UserError for a file of another layout."""
    document = read_json(path)
    try:
        images = {int(each["id"]): _image(each) for each in document["images"]}
        annotations = tuple(_annotation(each) for each in document["annotations"])
        categories = {int(each["id"]): str(each["name"]) for each in document["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: wanted a COCO instances JSON: images (id, file_name, height, width), annotations (id, image_id, "
            f"category_id, segmentation) and categories (id, name); got {type(error).__name__}: {error}"
        ) from error
    return CocoInstances(path, images, annotations, categories)


def _image(row: dict) -> CocoImage:
    return CocoImage(str(row["file_name"]), int(row["height"]), int(row["width"]))


def _annotation(row: dict) -> CocoAnnotation:
    ids = (int(row[key]) for key in ("id", "image_id", "category_id"))
    return CocoAnnotation(*ids, bool(row.get("iscrowd", 0)), row["segmentation"])
