"""Masks that exist already: COCO instances JSON, folders of panoptic PNGs, folders of label maps.

An image finds its annotations by file stem. Annotations are in the frame of their own file: an image whose
EXIF orientation turns it, or which was resized, has another size than its annotations and is dropped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence

import fsspec
import numpy as np

from ovseg_model.proposals.annotation_index import (
    AnnotatedImage,
    AnnotationIndex,
    Segment,
    build_index,
    stem_of,
)
from ovseg_model.proposals.generator import (
    GeneratorKind,
    ImageInput,
    MaskGenerator,
    MaskProposals,
    ProposalError,
    Resolution,
)
from ovseg_model.proposals.options import option
from ovseg_model.rle import Rle, check_rles, encode_labels, encode_polygons, encode_runs
from schemas.errors import UserError

VERSION = 1
"""Raised whenever the same annotations begin to give other masks."""

MAP_ENDINGS = (".png", ".tif", ".tiff")
"""Files that can hold a map, in the order of look-up."""

MAX_COORDINATE_PX = 1_000_000
"""Polygon points further out are refused: COCO's rasteriser spends memory on every pixel of an edge."""


@dataclasses.dataclass(frozen=True)
class AnnotationsOptions:
    """Options of the annotations generator."""

    source: str = option(help="a COCO instances JSON, or a folder of panoptic PNGs or label maps; path or fsspec URL")
    format: str = option(
        "auto",
        choices=("auto", "coco", "panoptic", "labelmap"),
        help="auto: a file is coco, RGB maps are panoptic",
    )
    keep_crowd: bool = option(
        True,
        help="keep masks of crowds: 'people' is a region too, and ground truth by class includes them",
    )
    panoptic_json: str = option("", help="panoptic only: the JSON that says which ids count and which are crowds")
    ignore_labels: tuple[int, ...] = option(
        (),
        help="labelmap only: labels that are no mask; default 255 (8-bit maps) or 65535 (16-bit); -1: none",
    )


class BadAnnotationError(Exception):
    """One image's annotations cannot be read; becomes a ProposalError bad_annotation."""


class CocoAnnotations:
    """Masks of a COCO instances JSON, one an annotation, in the order of the file."""

    name = "annotations"
    batch_size = 8

    def __init__(self, index: AnnotationIndex, keep_crowd: bool) -> None:
        """Take an open table of annotations."""
        self.index = index
        self.keep_crowd = keep_crowd

    def propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        """Return one outcome an image, in order; one read of the table for all of them."""
        found = self.index.look_up(stem_of(image.image_uri) for image in images)
        return [self._propose_one(image, found.get(stem_of(image.image_uri))) for image in images]

    def _propose_one(self, image: ImageInput, annotated: AnnotatedImage | None) -> MaskProposals | ProposalError:
        if annotated is None:
            return _not_found(image)
        size = image.pixels_HW3.shape[:2]
        stated = (annotated.height or size[0], annotated.width or size[1])
        if stated != size:
            return _wrong_size(stated, size)
        segments = [segment for segment in annotated.segments if self.keep_crowd or not segment.is_crowd]
        try:
            masks = [_rasterise_at(position, segment, size) for position, segment in enumerate(segments)]
        except BadAnnotationError as error:
            return ProposalError("bad_annotation", str(error))
        return MaskProposals([mask for mask in masks if mask is not None])


def _not_found(image: ImageInput) -> ProposalError:
    return ProposalError("no_annotation", f"no annotation is named {stem_of(image.image_uri)!r}")


def _wrong_size(stated: tuple[int, ...], size: tuple[int, ...]) -> ProposalError:
    return ProposalError(
        "mask_size_mismatch",
        f"the annotation is {stated[0]} x {stated[1]}, the image {size[0]} x {size[1]} (height x width)",
    )


def _rasterise_at(position: int, segment: Segment, size: tuple[int, int]) -> Rle | None:
    try:
        return rasterise(json.loads(segment.segmentation), *size)
    except BadAnnotationError as error:
        raise BadAnnotationError(f"annotation {position} of the image: {error}") from error


def rasterise(segmentation: object, height: int, width: int) -> Rle | None:
    """Turn a COCO segmentation into a mask: polygons, or an RLE with counts as numbers or compressed.

    Returns None for an empty list, which some tools write for "box only". Raises BadAnnotationError where
    pycocotools would read memory that is not its own (runs that do not fill the mask) or take four numbers
    for a box.
    """
    if segmentation == []:
        return None
    if isinstance(segmentation, list):
        _check_polygons(segmentation)
        return encode_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise BadAnnotationError(f"wanted polygons, or an RLE of size {[height, width]}; got {str(segmentation)[:60]}")
    mask = _compressed(segmentation.get("counts"), height, width)
    try:
        check_rles([mask])
    except ValueError as error:
        raise BadAnnotationError(str(error)) from error
    return mask


def _check_polygons(polygons: list) -> None:
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise BadAnnotationError(f"a polygon wants three points or more, [x0, y0, ...]; got {str(polygon)[:60]}")
        # not(a <= b) also catches NaN, which JSON files do hold
        if not all(isinstance(x, (int, float)) and abs(x) <= MAX_COORDINATE_PX for x in polygon):
            raise BadAnnotationError("a polygon wants numbers in pixels; got one that is none, or too large")


def _compressed(counts: object, height: int, width: int) -> Rle:
    if isinstance(counts, str):
        return Rle(size=[height, width], counts=counts)
    is_list = isinstance(counts, list) and all(type(x) is int and 0 <= x <= height * width for x in counts)
    if not is_list or sum(counts) != height * width:
        raise BadAnnotationError(f"RLE counts must be run lengths that fill {height} x {width} pixels")
    return encode_runs([np.asarray(counts, np.int64)], height, width)[0]


class MapAnnotations:
    """Masks of label or panoptic maps, one file an image: a mask for each value that counts, ascending."""

    name = "annotations"
    batch_size = 8

    def __init__(self, options: AnnotationsOptions, is_panoptic: bool, index: AnnotationIndex | None) -> None:
        """Take the options, and the table of a panoptic JSON if one was given."""
        self.options = options
        self.is_panoptic = is_panoptic
        self.index = index

    def propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        """Return one outcome an image, in order."""
        stems = [stem_of(image.image_uri) for image in images]
        listed = self.index.look_up(stems) if self.index else {}
        return [self._propose_one(image, listed.get(stem)) for image, stem in zip(images, stems, strict=True)]

    def _propose_one(self, image: ImageInput, annotated: AnnotatedImage | None) -> MaskProposals | ProposalError:
        data = read_map_file(self.options.source, stem_of(image.image_uri))
        if data is None or (self.index and annotated is None):
            return _not_found(image)
        try:
            labels_HW = decode_map(data, self.is_panoptic)
        except BadAnnotationError as error:
            return ProposalError("bad_annotation", str(error))
        if labels_HW.shape != image.pixels_HW3.shape[:2]:
            return _wrong_size(labels_HW.shape, image.pixels_HW3.shape[:2])
        labels, masks = encode_labels(labels_HW)
        counts = self._counts_as_mask(labels, labels_HW.dtype, annotated)
        return MaskProposals([mask for mask, kept in zip(masks, counts, strict=True) if kept])

    def _counts_as_mask(self, labels: np.ndarray, dtype: np.dtype, annotated: AnnotatedImage | None) -> np.ndarray:
        """Whether each label is a mask; bool, one a label."""
        if not self.is_panoptic:
            return ~np.isin(labels, self.options.ignore_labels or (np.iinfo(dtype).max,))
        if annotated is None:
            return labels != 0
        keep_crowd = self.options.keep_crowd
        ids = [int(segment.segmentation) for segment in annotated.segments if keep_crowd or not segment.is_crowd]
        return np.isin(labels, ids) & (labels != 0)


def read_map_file(folder: str, stem: str) -> bytes | None:
    """Return the bytes of the folder's map of this stem, or None when there is none."""
    file_system, path = fsspec.core.url_to_fs(folder)
    for ending in MAP_ENDINGS:
        try:
            return file_system.cat_file(f"{path.rstrip('/')}/{stem}{ending}")
        except FileNotFoundError:
            continue
    return None


def decode_map(data: bytes, is_panoptic: bool) -> np.ndarray:
    """Decode a map to labels, (H, W): uint8 or uint16 as stored, palettes as their indices; panoptic uint32.

    A panoptic id is R + 256 G + 256^2 B. Raises BadAnnotationError for anything else than a map
    of the wanted kind.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadAnnotationError(f"the map cannot be decoded: {error}") from error
    if is_panoptic:
        if mode not in ("RGB", "RGBA"):
            raise BadAnnotationError(f"a panoptic map has colours (RGB), this one is of mode {mode}")
        return values[..., :3].astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    if mode not in ("1", "L", "P") and not mode.startswith("I"):
        raise BadAnnotationError(f"a label map has one 8-bit or 16-bit channel, this one is of mode {mode}")
    if mode.startswith("I") and (values.min(initial=0) < 0 or values.max(initial=0) > 65535):
        raise BadAnnotationError("a label map has labels from 0 to 65535, this one has others")
    return values.astype(np.uint16 if mode.startswith("I") else np.uint8)


def sha256_of_listing(folder: str) -> str:
    """Return the sha256, in hex, of the sorted names and sizes of a folder's maps.

    Reading a corpus of maps only to hash it would cost as much as the work itself; the price is that a map
    edited in place to exactly its old size goes unnoticed. Raises UserError when the folder has no map.
    """
    lines = [f"{name}\t{size}\n" for name, size in _list_maps(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _list_maps(folder: str) -> list[tuple[str, int]]:
    file_system, path = fsspec.core.url_to_fs(folder)
    try:
        entries = file_system.ls(path, detail=True)
    except OSError as error:
        raise UserError(f"annotations: cannot list {folder}: {error}; give source=<a folder that exists>") from error
    maps = [(entry["name"].rpartition("/")[2], entry["size"]) for entry in entries]
    maps = sorted((name, size) for name, size in maps if name.lower().endswith(MAP_ENDINGS))
    if not maps:
        raise UserError(f"annotations: {folder} has no map; wanted files that end in {', '.join(MAP_ENDINGS)}")
    return maps


def format_of(options: AnnotationsOptions) -> str:
    """Return the format asked for, or the one the source shows; raises UserError for clashing options."""
    chosen = _guess_format(options.source) if options.format == "auto" else options.format
    if options.panoptic_json and chosen != "panoptic":
        raise UserError(f"annotations: option panoptic_json goes with format=panoptic; the format is {chosen}")
    if options.ignore_labels and chosen != "labelmap":
        raise UserError(f"annotations: option ignore_labels goes with format=labelmap; the format is {chosen}")
    return chosen


def _guess_format(source: str) -> str:
    file_system, path = fsspec.core.url_to_fs(source)
    if not file_system.isdir(path):
        return "coco"
    first, _ = _list_maps(source)[0]
    try:
        decode_map(file_system.cat_file(f"{path.rstrip('/')}/{first}"), is_panoptic=True)
    except BadAnnotationError:
        return "labelmap"
    return "panoptic"


def _resolve(options: AnnotationsOptions, device: str, work_folder: str) -> Resolution:
    chosen = format_of(options)
    places, identity = {"format": chosen}, {"version": VERSION, "format": chosen}
    if chosen == "coco":
        places["index"], identity["source_sha256"] = build_index(options.source, work_folder, is_panoptic=False)
        return Resolution(identity | {"keep_crowd": options.keep_crowd}, places)
    identity["listing_sha256"] = sha256_of_listing(options.source)
    if chosen == "labelmap":
        return Resolution(identity | {"ignore_labels": list(options.ignore_labels)}, places)
    if options.panoptic_json:
        built = build_index(options.panoptic_json, work_folder, is_panoptic=True)
        places["index"], identity["panoptic_json_sha256"] = built
    return Resolution(identity | {"keep_crowd": options.keep_crowd}, places)


def _open(options: AnnotationsOptions, places: Mapping[str, str], device: str) -> MaskGenerator:
    index = AnnotationIndex(places["index"]) if "index" in places else None
    if places["format"] == "coco":
        return CocoAnnotations(index, options.keep_crowd)
    return MapAnnotations(options, places["format"] == "panoptic", index)


KIND = GeneratorKind(AnnotationsOptions, _resolve, _open)
