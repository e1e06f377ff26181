"""Which images of several runs are one, where their image_ids agree: told by their bytes, else by their URIs.

Two runs may use one image_id for different images ("000001" of two data sets). Such images get names of their own, the
same ones in whatever order the runs are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas import DROPS

NAME_DIGITS = 12
"""Hex digits of the sha256 that tell images of one image_id apart."""


class Sighting(NamedTuple):
    """What one run knows of an image: sha256 of its bytes (hex) and its URI, where it does."""

    sha256: str | None
    uri: str | None


Sightings = dict[str, Sighting]
"""By image_id, what one run knows."""

NewIds = dict[str, str]
"""By image_id, what one run's image is called in the union; without those that keep their name."""


def sightings_of(captions: pa.Table | None, with_bytes: pa.Table | None) -> Sightings:
    """What a run's rows say of their images.

    Args:
        captions: image_id and image_uri of CAPTIONS, where the run has them.
        with_bytes: image_id, image_uri and image_sha256 of MASKS or PAIRS.
    """
    seen: Sightings = {}
    if captions is not None:
        seen |= {image_id: Sighting(None, uri) for image_id, uri in _rows(captions, "image_id", "image_uri")}
    if with_bytes is not None:
        rows = _rows(with_bytes, "image_id", "image_sha256", "image_uri")
        seen |= {image_id: Sighting(sha256, uri) for image_id, sha256, uri in rows}
    return seen


def new_ids(runs: Sequence[Sightings]) -> list[NewIds]:
    """For each run, the new names of its images whose image_id means another image elsewhere.

    Such an image is called `<image_id>@<first 12 hex digits of the sha256 of its bytes>`, in every run that has it; of
    its URI where no bytes are known.
    """
    known = set[str]().union(*runs)
    shared = (image_id for image_id in known if sum(image_id in run for run in runs) > 1)
    names: list[NewIds] = [{} for _ in runs]
    for image_id in shared:
        contents = identities([run[image_id] for run in runs if image_id in run])
        if len(set(contents)) > 1:
            having = [names[number] for number, run in enumerate(runs) if image_id in run]
            for of_run, content in zip(having, contents, strict=True):
                of_run[image_id] = f"{image_id}@{content[:NAME_DIGITS]}"
    return names


def identities(sightings: Sequence[Sighting]) -> list[str]:
    """What each run means by one image_id, as a sha256 in hex; equal where it is one image.

    Bytes tell. A run that has no bytes means the image that another has at its URI; one without a URI, any. Ties go
    to the smallest.
    """
    at_uri: dict[str, str] = {}
    for each in sorted((each for each in sightings if each.sha256 and each.uri), reverse=True):
        at_uri[each.uri] = each.sha256
    known = [each.sha256 or _of_uri(each.uri, at_uri) for each in sightings]
    where_nothing_tells = min(filter(None, known), default="")
    return [content or where_nothing_tells for content in known]


def renamed(rows: pa.Table, names: NewIds) -> pa.Table:
    """Rows of a table, of images that all have new names, under these."""
    ids = pa.array([names[image_id] for image_id in rows["image_id"].to_pylist()], pa.string())
    return _with_column(rows, "image_id", ids)


def renamed_drops(rows: pa.Table, names: NewIds) -> pa.Table:
    """DROPS rows of such images: their keys, and what their details say of where a noun was paired, follow."""
    drops = rows.to_pylist()
    for row in drops:
        old, new = row["image_id"], names[row["image_id"]]
        row["image_id"] = new
        row["key"] = new + row["key"].removeprefix(old) if row["key"].startswith(old) else row["key"]
        row["detail"] = row["detail"].replace(f"paired from {old}#", f"paired from {new}#")
    return pa.Table.from_pylist(drops, DROPS.schema)


def of_images(rows: pa.Table, image_ids: Iterable[str], wanted: bool = True) -> pa.Table:
    """The rows of some images, or of all others; a row without an image is of none."""
    found = pc.is_in(rows["image_id"], pa.array(list(image_ids), pa.string()))
    return rows.filter(found if wanted else pc.invert(found))


def _of_uri(uri: str | None, at_uri: dict[str, str]) -> str:
    return at_uri.get(uri) or hashlib.sha256(uri.encode()).hexdigest() if uri else ""


def _rows(rows: pa.Table, *columns: str) -> Iterable[tuple[str, ...]]:
    distinct = rows.select(columns).group_by(columns, use_threads=False).aggregate([])
    return zip(*(distinct[column].to_pylist() for column in columns), strict=True)


def _with_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    column = rows.schema.get_field_index(name)
    return rows.set_column(column, rows.schema.field(column), values)
