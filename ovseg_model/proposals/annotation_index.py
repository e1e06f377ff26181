"""A table of annotations by image, in which a worker finds a few images without reading the rest.

A COCO JSON (train2017's is 448 MB) is rewritten once, before work starts, into a Parquet file sorted by
file stem, with small row groups; the footer says which stems each row group spans.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError, unwritable

VERSION = 1
"""Raised whenever the table's layout changes: it is part of the file's name."""

ROW_GROUP_IMAGES = 64
"""About 200 KB of train2017: small enough to look up one image, large enough for a footer of about 1 MB."""

SCHEMA = pa.schema(
    [
        ("stem", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("segments", pa.list_(pa.struct([("segmentation", pa.string()), ("is_crowd", pa.bool_())]))),
    ]
)


class Segment(NamedTuple):
    """One annotation: its segmentation as JSON (COCO polygons or RLE, or a panoptic id); is it a crowd."""

    segmentation: str
    is_crowd: bool


class AnnotatedImage(NamedTuple):
    """One image's annotations in the order of their file; sizes in pixels, None where not given."""

    stem: str
    height: int | None
    width: int | None
    segments: list[Segment]


def stem_of(image_uri: str) -> str:
    """Return the file stem an image is found by: `a/12.jpg`, `a.tar#member=12.jpg&offset=0` give `12`."""
    path, _, fragment = image_uri.partition("#")
    for part in fragment.split("&"):
        if part.startswith("member="):
            return PurePosixPath(unquote(part.removeprefix("member="))).stem
    if image_uri.startswith(("http://", "https://")):
        return PurePosixPath(unquote(urlsplit(path).path)).stem
    return PurePosixPath(image_uri).stem


def build_index(source: str, work_folder: str, is_panoptic: bool) -> tuple[str, str]:
    """Write a COCO JSON's table into the folder, unless it is there; return (its place, the source's sha256).

    The table's name holds the sha256, and it appears whole or not at all. Needs memory for the parsed
    JSON, once, several times the file. Raises UserError for a file that cannot be read or is not a COCO JSON.
    """
    source_sha256 = sha256_of_file(source)
    kind = "panoptic" if is_panoptic else "instances"
    place = f"{work_folder.rstrip('/')}/{kind}-v{VERSION}-{source_sha256[:16]}.parquet"
    if not _exists(place):
        write_index(read_coco_json(source, is_panoptic), source, place)
    return place, source_sha256


def sha256_of_file(source: str) -> str:
    """Return the sha256 of a file's bytes in hex, read in pieces; raises UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with fsspec.open(source, "rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    except OSError as error:
        raise UserError(f"annotations: cannot read {source}: {error}; give the path of an existing file") from error
    return digest.hexdigest()


def _exists(place: str) -> bool:
    file_system, path = fsspec.core.url_to_fs(place)
    return file_system.exists(path)


def read_coco_json(source: str, is_panoptic: bool) -> list[AnnotatedImage]:
    """Read a COCO JSON of instances, or of panoptic segments: one entry an image, annotated or not.

    Annotations of images that are not listed are ignored. Raises UserError for another layout.
    """
    try:
        with fsspec.open(source, "rb") as file:
            document = json.load(file)
        segments: dict[object, list[Segment]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            segments.get(annotation["image_id"], []).extend(_segments_of(annotation, is_panoptic))
        return [_annotated(image, segments[image["id"]]) for image in document["images"]]
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"annotations: {source} is not a COCO JSON: {error}") from error
    except KeyError as error:
        raise UserError(_missing_key(source, error, is_panoptic)) from error


def _missing_key(source: str, error: KeyError, is_panoptic: bool) -> str:
    wanted = "segments_info" if is_panoptic else "segmentation"
    return (
        f"annotations: {source}: wanted a COCO JSON with images (id, file_name) and annotations "
        f"(image_id, {wanted}); {error} is missing; panoptic JSON goes into option panoptic_json, "
        "its folder of PNGs into source"
    )


def _annotated(image: dict, segments: list[Segment]) -> AnnotatedImage:
    height, width = (None if image.get(side) is None else int(image[side]) for side in ("height", "width"))
    return AnnotatedImage(stem_of(image["file_name"]), height, width, segments)


def _segments_of(annotation: dict, is_panoptic: bool) -> list[Segment]:
    """One segment of an instances annotation, or all of a panoptic one."""
    if is_panoptic:
        return [Segment(str(int(x["id"])), bool(x.get("iscrowd", 0))) for x in annotation["segments_info"]]
    text = json.dumps(annotation["segmentation"], separators=(",", ":"))
    return [Segment(text, bool(annotation.get("iscrowd", 0)))]


def write_index(images: Iterable[AnnotatedImage], source: str, place: str) -> None:
    """Write the table whole: under a name that starts with a dot, then renamed.

    Raises UserError when two images have one stem, since an image could not tell which is its own, and when the
    place cannot be written to.
    """
    ordered = sorted(images, key=lambda image: image.stem)
    for one, other in itertools.pairwise(ordered):
        if one.stem == other.stem:
            raise UserError(f"annotations: {source} has two images named {one.stem!r}; names must be unique")
    file_system, path = fsspec.core.url_to_fs(place)
    folder, _, name = path.rpartition("/")
    hidden = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        file_system.makedirs(folder, exist_ok=True)
        with file_system.open(hidden, "wb") as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for start in range(0, len(ordered), ROW_GROUP_IMAGES):
                writer.write_table(_to_table(ordered[start : start + ROW_GROUP_IMAGES]))
        file_system.mv(hidden, path)
    except OSError as error:
        if file_system.exists(hidden):
            file_system.rm_file(hidden)
        raise unwritable(place, error) from error


def _to_table(images: Sequence[AnnotatedImage]) -> pa.Table:
    rows = [image._asdict() | {"segments": [segment._asdict() for segment in image.segments]} for image in images]
    return pa.Table.from_pylist(rows, SCHEMA)


class AnnotationIndex:
    """A table written by `build_index`, open for look-up; holds its footer in memory and nothing more."""

    def __init__(self, place: str) -> None:
        """Read the footer; raises UserError when the table is gone."""
        file_system, path = fsspec.core.url_to_fs(place)
        try:
            self._file = pq.ParquetFile(file_system.open(path, "rb"))
        except FileNotFoundError as error:
            raise UserError(f"annotations: the prepared table {place} is gone; start the run again") from error
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        self._last_stems = [metadata.row_group(group).column(0).statistics.max for group in groups]

    def look_up(self, stems: Iterable[str]) -> dict[str, AnnotatedImage]:
        """Return the images of these stems, in one read of the row groups that can hold them."""
        wanted = set(stems)
        groups = sorted({bisect.bisect_left(self._last_stems, stem) for stem in wanted})
        table = self._file.read_row_groups([group for group in groups if group < len(self._last_stems)])
        rows = table.filter(pc.is_in(table["stem"], pa.array(list(wanted), pa.string()))).to_pylist()
        return {row["stem"]: _from_row(row) for row in rows}


def _from_row(row: dict) -> AnnotatedImage:
    return AnnotatedImage(**row | {"segments": [Segment(**segment) for segment in row["segments"]]})
