"""Images that a run must not have, by hash lists (`ovseg hash`): found by their bytes, or by how they look."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg_model.image_hash import HASH_BITS, bits_apart, hash_values, perceptual_hash
from ovseg_model.images import FetchedImage, ImageError
from pipelines.open_models import open_once
from pipelines.options import ExcludeOptions
from schemas import SchemaError, UserError, conform
from schemas.image_hashes import IMAGE_HASHES

REASON = "excluded_image"


@dataclass(frozen=True)
class ExclusionSpec:
    """Hash lists that were found before the run: small and picklable; each worker process opens them once."""

    lists: tuple[tuple[str, str], ...]
    """sha256 and place of each list, sorted."""

    distance: int
    """Bits in which perceptual hashes may differ and still be of one image."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides which images are excluded: the lists by their content, wherever they lie."""
        return {"lists": [sha256 for sha256, _ in self.lists], "distance": self.distance}


def resolve_exclusions(options: ExcludeOptions) -> ExclusionSpec | None:
    """The hash lists, read and checked before work starts; None where none is named.

    Raises:
        UserError: a list is not there or is none, or the distance is no number of bits.
    """
    if not 0 <= options.exclude_distance < HASH_BITS:
        raise UserError(f"--exclude-distance: wanted 0 to {HASH_BITS - 1} bits, got {options.exclude_distance}")
    if not options.exclude_images:
        return None
    places = {}
    for given in options.exclude_images:
        data = _read_list(place := _absolute(given))
        _parse_list(place, data)
        places[hashlib.sha256(data).hexdigest()] = place
    return ExclusionSpec(tuple(sorted(places.items())), options.exclude_distance)


def open_exclusions(spec: ExclusionSpec) -> ExcludedImages:
    """The images of all lists, in memory: about 200 bytes each.

    Raises:
        UserError: a list is not what it was when the run was planned.
    """
    tables = []
    for sha256, place in spec.lists:
        data = _read_list(place)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(f"--exclude-images {place}: the list changed after the run began; give the command again")
        tables.append(_parse_list(place, data))
    return ExcludedImages(pa.concat_tables(tables), spec.distance)


def opened(spec: ExclusionSpec | None) -> ExcludedImages | None:
    """The images of a spec, opened once a process; None where nothing is excluded."""
    return open_once(open_exclusions, spec) if spec else None


class ExcludedImages:
    """IMAGE_HASHES rows that can be looked up."""

    def __init__(self, hashes: pa.Table, distance: int) -> None:
        """hashes: of any sets, in any order. distance: bits in which perceptual hashes of one image may differ."""
        hashes = hashes.sort_by([("set_name", "ascending"), ("file_name", "ascending")])
        self._sets, self._files = hashes["set_name"].to_pylist(), hashes["file_name"].to_pylist()
        self._values = hash_values(hashes["image_phash"].to_pylist())
        sha256s = hashes["image_sha256"].to_pylist()
        self._row_of_bytes = {sha256: row for row, sha256 in reversed(list(enumerate(sha256s)))}
        self._distance = distance

    def find(self, image_sha256: str, image_phash: str) -> str | None:
        """Which excluded image this one is, in words; None if it is none.

        Equal bytes come first, then the perceptual hash that is nearest; of several the first by set and file.
        """
        row = self._row_of_bytes.get(image_sha256)
        if row is not None:
            return f"{self._sets[row]}: {self._files[row]}, the same bytes"
        bits = bits_apart(self._values, hash_values([image_phash])[0])
        row = int(bits.argmin()) if bits.size else None
        if row is None or bits[row] > self._distance:
            return None
        return f"{self._sets[row]}: {self._files[row]}, perceptual hashes {bits[row]} of {HASH_BITS} bits apart"


def refuse_excluded(
    results: Iterator[FetchedImage | ImageError], excluded: ExcludedImages
) -> Iterator[FetchedImage | ImageError]:
    """The images in their order, those that are excluded as the error of why."""
    for result in results:
        if isinstance(result, FetchedImage):
            found = excluded.find(result.sha256, perceptual_hash(result.pixels))
            yield ImageError(REASON, found) if found else result
        else:
            yield result


def find_excluded(masks: pa.Table, excluded: ExcludedImages | None) -> dict[str, str]:
    """Which images of MASKS rows are excluded, and why: by image_id. No image is read."""
    if not excluded:
        return {}
    columns = ["image_id", "image_sha256", "image_phash"]
    images = masks.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
    found = {image["image_id"]: excluded.find(image["image_sha256"], image["image_phash"]) for image in images}
    return {image_id: why for image_id, why in found.items() if why}


def without_images(rows: pa.Table, image_ids: Collection[str]) -> pa.Table:
    """The rows of all other images."""
    if not image_ids:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(list(image_ids), pa.string()))))


def _absolute(place: str) -> str:
    """A local path made absolute, since workers have folders of their own."""
    return place if "://" in place else os.path.abspath(place)


def _read_list(place: str) -> bytes:
    try:
        with fsspec.open(place, "rb") as file:
            return file.read()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"--exclude-images {place}: cannot be read ({error}); wanted a hash list, which ovseg hash makes"
        ) from error


def _parse_list(place: str, data: bytes) -> pa.Table:
    try:
        return conform(pq.read_table(io.BytesIO(data)), IMAGE_HASHES)
    except (pa.ArrowInvalid, SchemaError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"--exclude-images {place}: is no hash list ({said}); make one with ovseg hash FOLDER --name SET"
        ) from error
