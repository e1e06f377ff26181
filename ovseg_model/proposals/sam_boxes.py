"""Boxes that a detector or an annotator made, by image: COCO results or COCO instances, as a table workers open.

The JSON is read once, before work starts, into a Parquet table in the run's folder. COCO results know images by id
only, instances by file name too: an image finds its boxes by its id or, of instances, by its file stem.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg_model.proposals.annotation_index import sha256_of_file, stem_of
from ovseg_model.proposals.generator import ImageInput
from schemas.errors import UserError, unwritable

VERSION = 1
"""Raised whenever the table's layout changes: it is part of the file's name."""

SCHEMA = pa.schema([("image", pa.string()), ("boxes_xyxy_px", pa.list_(pa.float32())), ("by_stem", pa.bool_())])


def prepare_boxes(source: str, work_folder: str, least_score: float = 0.0) -> tuple[str, str]:
    """Writes the table of a JSON, unless it is there; returns (its place, the source's sha256).

    least_score: boxes of a lower score are left out; one without a score has 1. Raises UserError for a file that cannot
    be read or is neither kind, and for a place that cannot be written to.
    """
    sha256 = sha256_of_file(source)
    place = f"{work_folder.rstrip('/')}/boxes-v{VERSION}-{sha256[:16]}-{least_score:g}.parquet"
    file_system, path = fsspec.core.url_to_fs(place)
    if file_system.exists(path):
        return place, sha256
    rows = read_boxes(source, least_score)
    hidden = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        file_system.makedirs(path.rpartition("/")[0], exist_ok=True)
        with file_system.open(hidden, "wb") as file:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
        file_system.mv(hidden, path)
    except OSError as error:
        raise unwritable(place, error) from error
    return place, sha256


def read_boxes(source: str, least_score: float) -> list[dict[str, Any]]:
    """Returns rows of SCHEMA, one an image that is listed, boxes in the order of the file."""
    try:
        with fsspec.open(source, "rb") as file:
            document = json.load(file)
        is_instances = isinstance(document, dict)
        found = document["annotations"] if is_instances else document
        boxes: dict[str, list[float]] = {str(image["id"]): [] for image in document["images"]} if is_instances else {}
        for each in found:
            if each.get("score", 1.0) >= least_score:
                boxes.setdefault(str(each["image_id"]), []).extend(corners(each["bbox"]))
        stems = {str(image["id"]): stem_of(image["file_name"]) for image in document["images"]} if is_instances else {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"sam: option boxes: {source}: wanted COCO results, a list of image_id, bbox [x, y, width, height] and "
            f"score, or COCO instances; got {type(error).__name__}: {error}"
        ) from error
    return [
        {"image": stems.get(image, image), "boxes_xyxy_px": own, "by_stem": is_instances}
        for image, own in sorted(boxes.items())
    ]


def corners(box_xywh: Sequence[float]) -> tuple[float, float, float, float]:
    """Returns a box as x0, y0, x1, y1. Raises ValueError for one that is none."""
    x, y, width, height = (float(number) for number in box_xywh)
    if not np.isfinite([x, y, width, height]).all() or width < 0 or height < 0:
        raise ValueError(f"a bbox wants x, y, width, height in pixels, not {list(box_xywh)}")
    return x, y, x + width, y + height


class BoxTable:
    """A table written by `prepare_boxes`, open for look-up; it is held in memory, 16 bytes a box."""

    def __init__(self, place: str) -> None:
        """Reads the table; raises UserError where it is gone."""
        try:
            with fsspec.open(place, "rb") as file:
                self._table = pq.read_table(file)
        except FileNotFoundError as error:
            raise UserError(f"sam: the prepared table {place} is gone; start the run again") from error
        self._by_stem = bool(len(self._table)) and self._table["by_stem"][0].as_py()

    def look_up(self, images: Sequence[ImageInput]) -> list[np.ndarray | None]:
        """Returns boxes of images, float32 (N, 4), x0, y0, x1, y1; None for an image that is not listed."""
        keys = [stem_of(image.image_uri) if self._by_stem else image.image_id for image in images]
        rows = pc.index_in(pa.array(keys, pa.string()), self._table["image"].combine_chunks()).to_pylist()
        boxes = self._table["boxes_xyxy_px"]
        return [None if row is None else np.array(boxes[row].as_py(), np.float32).reshape(-1, 4) for row in rows]
