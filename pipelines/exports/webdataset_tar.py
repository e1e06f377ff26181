"""`--format webdataset`: tar shards of samples KEY.png (the crop), KEY.mask.png (its mask) and KEY.json (the row)."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.pair_reader import Picture, Row, Unreadable
from pipelines.exports.datasets_parquet import with_public_uris
from pipelines.exports.export_options import ExportOptions
from pipelines.exports.region_pictures import crop_of, make_of_regions, mask_png
from pipelines.exports.selected_pairs import ROWS_PER_PICTURE, SelectedPairs


class SamplePictures(NamedTuple):
    """The two pictures of a sample, as PNG."""

    crop: bytes
    mask: bytes


def write_pairs(pairs: SelectedPairs, folder: str, options: ExportOptions, fetch: FetchOptions) -> None:
    """Writes train-000000.tar and so on, `pairs_a_file` samples each; equal samples are equal bytes.

    Raises:
        UserError: a part of the run cannot be read.
    """
    samples, shard = exported_samples(pairs, options, fetch), 0
    sample = next(samples, None)
    while sample is not None:
        keys: Counter[str] = Counter()
        with tarfile.open(f"{folder}/train-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            while sample is not None and keys.total() < options.pairs_a_file():
                add_sample(tar, sample_key(sample[0]["pair_id"], keys), *sample)
                sample = next(samples, None)
        shard += 1


def exported_samples(
    pairs: SelectedPairs, options: ExportOptions, fetch: FetchOptions
) -> Iterator[tuple[Row, SamplePictures]]:
    """Rows without their crop, and their pictures."""
    for batch in pairs.batches(ROWS_PER_PICTURE):
        made = make_of_regions(batch.to_pylist(), fetch, sample_pictures)
        kept = pairs.keep_readable(batch, made)
        public = with_public_uris(kept) if options.uris == "public" else kept
        pictures = [each for each in made if not isinstance(each, Unreadable)]
        yield from zip(public.drop_columns("crop_png").to_pylist(), pictures, strict=True)


def sample_pictures(row: Row, picture: Picture) -> SamplePictures:
    """The crop and its mask."""
    return SamplePictures(crop_of(row, picture), mask_png(picture))


def sample_key(pair_id: str, keys: Counter[str]) -> str:
    """pair_id, and -1, -2 … behind it where the shard has it already: two image_ids may have the same bytes."""
    keys[pair_id] += 1
    return pair_id if keys[pair_id] == 1 else f"{pair_id}-{keys[pair_id] - 1}"


def add_sample(tar: tarfile.TarFile, key: str, row: dict[str, Any], pictures: SamplePictures) -> None:
    """Adds the members of one sample, sorted by name."""
    text = json.dumps(row, ensure_ascii=False, sort_keys=True).encode()
    for name, data in (("json", text), ("mask.png", pictures.mask), ("png", pictures.crop)):
        member = tarfile.TarInfo(f"{key}.{name}")  # time, owner and group are zero
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
