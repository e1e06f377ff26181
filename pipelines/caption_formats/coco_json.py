"""COCO captions JSON: one document with images and annotations, read whole (docs/inputs.md says the memory)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipelines.caption_formats.image_places import ImageBase, normal_path
from pipelines.caption_formats.input_files import InputFile, open_input
from pipelines.caption_formats.read_options import ReadOptions
from pipelines.caption_formats.rows import (
    BadRow,
    CaptionRow,
    RowError,
    caption_of,
    optional_flag,
    optional_text,
    shown,
    text_of,
)
from schemas.errors import UserError

MAX_ORDER = 2**63 - 1


class CocoImage(NamedTuple):
    """What the captions of one image share; image_uri is None where the document names no place for it."""

    image_id: str
    image_uri: str | None
    source_url: str | None
    licence: str | None
    safety: str | None


def read_coco(file: InputFile, options: ReadOptions) -> Iterator[CaptionRow | BadRow]:
    """The captions of a COCO JSON in its order, then one bad row for each image without a caption.

    Raises:
        UserError: it is no COCO captions JSON, or names no place for its images and --images is not given.
    """
    document = load_document(file.uri)
    images, bad = _images(file.uri, document, options)
    yield from bad
    captioned = set()
    for index, annotation in enumerate(document["annotations"]):
        captioned.add(_key_of(annotation, "image_id"))
        yield _row(file.uri, index, annotation, images)
    for key, image in images.items():
        if key not in captioned:
            yield BadRow(image.image_id, "no_caption", f"{file.uri} has no caption of this image")


def load_document(uri: str) -> dict[str, Any]:
    """The document, checked to be one of captions; raises UserError."""
    with open_input(uri) as opened:
        data = opened.read()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{uri}: wanted one JSON document, got something else ({error}); "
            "for one JSON object a line say --captions-format jsonl"
        ) from error
    problem = _problem(document)
    if problem:
        raise UserError(f"{uri}: wanted a COCO captions JSON with lists images and annotations, got {problem}")
    return document


def _problem(document: Any) -> str | None:
    if not isinstance(document, dict):
        return f"a {type(document).__name__} at its top; a list of records can be read as JSONL, one record a line"
    missing = [name for name in ("images", "annotations") if not isinstance(document.get(name), list)]
    if missing:
        return f"no list {' and no list '.join(missing)} but {', '.join(map(shown, document)) or 'nothing'}"
    annotations = document["annotations"]
    if annotations and not any(isinstance(each, dict) and "caption" in each for each in annotations):
        return "annotations without a caption; instances and panoptic files hold masks, which --masks annotations reads"
    return None


def _images(uri: str, document: dict[str, Any], options: ReadOptions) -> tuple[dict[str, CocoImage], list[BadRow]]:
    """The images by their id as text, and the entries that cannot be read."""
    licences = _licences(document.get("licenses"))
    base = ImageBase(options.images) if options.images else None
    images, bad = {}, []
    for index, entry in enumerate(document["images"]):
        try:
            image = _image(entry, base, licences)
            if images.setdefault(image.image_id, image) != image:
                raise RowError("duplicate_image", f"wanted each id once, got {image.image_id} again and different")
        except RowError as problem:
            bad.append(problem.row(f"{uri}:images[{index}]"))
    if images and base is None and not any(image.image_uri for image in images.values()):
        raise UserError(f"{uri}: its images have no coco_url; say by --images which folder holds them")
    return images, bad


def _image(entry: Any, base: ImageBase | None, licences: dict[str, Any]) -> CocoImage:
    if not isinstance(entry, dict) or entry.get("id") is None:
        raise RowError("missing_image", f"wanted an image with an id, got {shown(entry)}")
    names = ("file_name", "coco_url", "flickr_url")
    file_name, coco_url, flickr_url = (optional_text(entry.get(name), name) for name in names)
    image_uri = base.join(normal_path(file_name)) if base and file_name else coco_url
    source_url = next((url for url in (flickr_url, coco_url) if url and url != image_uri), None)
    about = source_url, _licence(entry.get("license"), licences), optional_flag(entry.get("safety"), "safety")
    return CocoImage(text_of(entry["id"], "id"), image_uri, *about)


def _licences(entries: Any) -> dict[str, Any]:
    """The url, or else the name, of each licence by its id as text; checked where an image has it."""
    known = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and (entry.get("url") or entry.get("name")):
            known[str(entry.get("id"))] = entry.get("url") or entry.get("name")
    return known


def _licence(key: Any, licences: dict[str, Any]) -> str | None:
    return None if key is None else optional_text(licences.get(str(key), key), "license")


def _key_of(annotation: Any, name: str) -> str | None:
    value = annotation.get(name) if isinstance(annotation, dict) else None
    return str(value) if isinstance(value, (int, str)) else None


def _row(uri: str, index: int, annotation: Any, images: dict[str, CocoImage]) -> CaptionRow | BadRow:
    number = _key_of(annotation, "id")
    key = f"{uri}:annotations[{index}]" if number is None else f"{uri}:annotation {number}"
    try:
        return _caption_row(annotation, images)
    except RowError as problem:
        return problem.row(key)


def _caption_row(annotation: Any, images: dict[str, CocoImage]) -> CaptionRow:
    image_id = _key_of(annotation, "image_id")
    image = images.get(image_id) if image_id is not None else None
    if image is None:
        raise RowError("unknown_image", f"wanted the id of an image that the file lists, got {shown(image_id)}")
    if image.image_uri is None:
        raise RowError("missing_image", f"image {image_id}: wanted a file_name with --images, or a coco_url")
    order = annotation.get("id")
    order = order if isinstance(order, int) and abs(order) <= MAX_ORDER else 0
    caption = caption_of(annotation.get("caption"), "caption")
    return CaptionRow(image.image_id, image.image_uri, order, caption, image.source_url, image.licence, image.safety)
