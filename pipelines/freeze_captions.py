"""A run begins by freezing its input: captions are partitioned by unit, through files, into CAPTIONS parts.

Rows are spilled to 256 bucket files by the hash of their image_id, then each bucket is read back and cut into its
units, so that memory stays flat: it holds one buffer of rows, then one bucket. The number of units is a power of
two, hence a unit is a whole number of buckets or a bucket a whole number of units, and one spill serves any count.
Tar shards are cut along themselves instead: a unit is a contiguous range of one shard.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.options import FreezeOptions
from pipelines.progress import show_progress
from pipelines.read_captions import BadRow, CaptionRow, InputFile, ReadOptions, input_files, read_rows, read_shard
from pipelines.spill import BUCKETS, Spill
from pipelines.units import (
    StepOutput,
    StepTotals,
    StoredTable,
    Units,
    count_totals,
    drop,
    drop_order,
    drops_name,
    image_digest,
    part_name,
    read_units,
    sum_totals,
    unit_count,
    write_output,
)
from pipelines.write_tables import PART_NAME, RunFolder
from schemas import CAPTIONS, UserError, conform_rows

STAGE = "read_captions"
STAMPS_FILE = ".input.json"

SPILL_SCHEMA = pa.schema(
    [
        ("digest", pa.uint64()),
        ("image_id", pa.string()),
        ("image_uri", pa.string()),
        ("order", pa.int64()),
        ("caption", pa.string()),
        ("source_url", pa.string()),
        ("licence", pa.string()),
        ("safety", pa.string()),
        ("drop_key", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""A spilled record: a caption row, or a bad row (image_id null) that becomes a drop."""


class FrozenPart(NamedTuple):
    """One unit of the frozen input, before it is written."""

    unit: int
    output: StepOutput


def freeze_captions(run: RunFolder, read: ReadOptions, freeze: FreezeOptions) -> Units:
    """Freezes the input into the run's CAPTIONS parts, or checks that a frozen run holds this input.

    Raises:
        UserError: the folder holds a run of another input, or the input cannot be read.
    """
    files = input_files(read)
    refuse_input_inside(run, files)
    frozen, stamps = read_units(run), input_stamps(files, read, freeze)
    is_known = bool(stamps) and known_stamps(run) == stamps
    if frozen and is_known and has_all_parts(run, frozen.count):
        return frozen
    if frozen:
        freeze = replace(freeze, unit_count=frozen.count)
        found = _write_units(run, files, read, freeze, write=False)
        if found.input_sha256 != frozen.input_sha256:
            raise UserError(
                f"--output {run.url} holds a run of another input ({frozen.images} images in {frozen.count} units); "
                "wanted an empty folder or the same captions and options; choose another --output or remove the folder"
            )
    units = _write_units(run, files, read, freeze, write=True)
    remove_parts_beyond(run, units.count)
    # Until units.json is there, nothing counts as frozen: its parts are waited for once, not one by one.
    run.make_durable()
    run.write_json(STAMPS_FILE, stamps)
    units.save(run)
    return units


def refuse_input_inside(run: RunFolder, files: Sequence[InputFile]) -> None:
    """Refuses an input that lies in the run's own folder, where the run's files would get mixed with it.

    Raises:
        UserError: naming the file.
    """
    inside = [file.uri for file in files if f"{file.uri}/".startswith(f"{run.url.rstrip('/')}/")]
    if inside:
        raise UserError(f"--captions {inside[0]} lies in --output {run.url}; choose a run directory of its own")


def has_all_parts(run: RunFolder, count: int) -> bool:
    """Whether every CAPTIONS part and its drops are there."""
    captions, drops = set(run.names("captions")), set(run.names("drops"))
    wanted = ((part_name("captions", unit), drops_name(STAGE, unit)) for unit in range(count))
    return all(part.split("/")[1] in captions and drop_.split("/")[1] in drops for part, drop_ in wanted)


def remove_parts_beyond(run: RunFolder, count: int) -> None:
    """Removes CAPTIONS parts, and drops of any stage, that an unfinished freezing with more units left."""
    for folder in ("captions", "drops"):
        for name in run.names(folder):
            part = PART_NAME.fullmatch(name)
            if part and int(part[1]) >= count:
                run.remove(f"{folder}/{name}")


def frozen_captions(run: RunFolder) -> StoredTable:
    """The CAPTIONS table that freezing made."""
    return StoredTable(run, STAGE, "captions")


def input_stamps(files: Sequence[InputFile], read: ReadOptions, freeze: FreezeOptions) -> dict[str, Any]:
    """What tells at a glance that the input is what it was: its options and its files' sizes and times.

    They only save a second reading: where they differ, the content decides. Empty where a file system tells no time.
    """
    if not all(file.modified for file in files):
        return {}
    facts = [[file.uri, file.size_bytes, file.modified] for file in files]
    limit = freeze.captions_per_image
    return json.loads(json.dumps({"files": facts, "read": asdict(read), "captions_per_image": limit}))


def known_stamps(run: RunFolder) -> Any:
    """The stamps of the input that was frozen; None where there are none, or none that can be read."""
    try:
        return run.read_json(STAMPS_FILE)
    except (FileNotFoundError, ValueError):
        return None


def freeze_rows(rows: list[dict[str, Any]], captions_per_image: int) -> StepOutput:
    """CAPTIONS rows and drops of one unit from its spilled records, in any order.

    Captions of an image are numbered by (order, hash of the caption); duplicates, captions over `captions_per_image`
    (0: no limit) and those that name another URI for the same image are dropped.
    """
    drops = [drop(STAGE, row["drop_key"], None, row["reason"], row["detail"]) for row in rows if row["reason"]]
    captions = sorted((row for row in rows if not row["reason"]), key=caption_order)
    kept: list[dict[str, Any]] = []
    for _, group in itertools.groupby(captions, key=lambda row: row["image_id"]):
        kept_of_image, dropped_of_image = freeze_image(list(group), captions_per_image)
        kept += kept_of_image
        drops += dropped_of_image
    return StepOutput(conform_rows(kept, CAPTIONS), drops, len(rows), len(kept))


def caption_order(row: dict[str, Any]) -> tuple[Any, ...]:
    """The order of spilled captions; content only, so that the order of the input's rows does not matter.

    Where the input gives no order, a hash does: the alphabet would make the first caption a biased choice.
    """
    return (
        row["image_id"],
        row["order"],
        hashlib.sha256(row["caption"].encode()).digest(),
        *(row[name] or "" for name in ("image_uri", "source_url", "licence", "safety")),
    )


def freeze_image(rows: list[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Numbers the captions of one image, sorted by `caption_order`; returns CAPTIONS rows and drops."""
    uri = min((row["image_uri"] for row in rows if row["image_uri"]), default=None)
    kept: dict[str, dict[str, Any]] = {}
    drops = []
    for row in rows:
        problem = _caption_problem(row, uri, kept, limit)
        if problem:
            drops.append(drop(STAGE, f"{row['image_id']}#{row['order']}", row["image_id"], *problem))
        else:
            kept[row["caption"]] = {
                "image_id": row["image_id"],
                "image_uri": uri,
                "caption_index": len(kept),
                "caption": row["caption"],
                "source_url": row["source_url"],
                "licence": row["licence"],
                "safety": row["safety"],
            }
    return list(kept.values()), drops


def _caption_problem(row: dict[str, Any], uri: str | None, kept: dict[str, Any], limit: int) -> tuple[str, str] | None:
    if row["image_uri"] not in (None, uri):
        return "conflicting_image_uri", f"wanted {uri}, got {row['image_uri']}"
    if row["caption"] in kept:
        return "duplicate_caption", f"the image has it already: {row['caption']}"
    if limit and len(kept) >= limit:
        return "over_caption_limit", f"the image has its {limit}: {row['caption']}"
    return None


def _write_units(
    run: RunFolder, files: Sequence[InputFile], read: ReadOptions, freeze: FreezeOptions, write: bool
) -> Units:
    """Cuts the input into units; writes them, or only computes what `Units` says of them."""
    shards = tuple(file.name for file in files if file.captions_format == "tar")
    parts = shard_parts(files, read, freeze) if shards else hashed_parts(run, files, read, freeze)
    hashes, inputs, totals, images = {}, {}, [], 0
    for part in parts:
        hashes[part.unit] = content_sha256(part.output.rows.to_pydict())
        inputs[part.unit] = hashes[part.unit] + content_sha256(sorted(part.output.drops, key=drop_order))
        totals.append(count_totals(STAGE, part.unit, part.output))
        images += pc.count_distinct(part.output.rows["image_id"]).as_py()
        if write:
            write_output(frozen_captions(run), part.unit, part.output, hashes[part.unit], durable=False)
    if not images:
        raise UserError(_nothing_read(read, sum_totals(totals)))
    digest = hashlib.sha256("".join(inputs[unit] for unit in sorted(inputs)).encode()).hexdigest()
    options = json.loads(json.dumps({**asdict(read), "captions_per_image": freeze.captions_per_image}))
    return Units("shards" if shards else "hash", len(hashes), images, digest, options, shards)


def _nothing_read(read: ReadOptions, totals: StepTotals) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in totals.dropped.items()) or "no rows"
    return (
        f"--captions {' '.join(read.captions)}: no caption could be read ({reasons}); check the format and the "
        "column options"
    )


def content_sha256(values: Any) -> str:
    """sha256 over plain values, whatever file they stand in, in hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def hashed_parts(
    run: RunFolder, files: Sequence[InputFile], read: ReadOptions, freeze: FreezeOptions
) -> Iterator[FrozenPart]:
    """Every unit of an input that is cut by hash, through the spill."""
    with Spill(SPILL_SCHEMA, run.path() if run.is_local else None) as spill:
        spill.add(spilled(row) for row in show_progress(read_rows(files, read), "read captions", "row"))
        count = freeze.unit_count or unit_count(spill.count_images(), freeze.images_per_unit)
        for first in range(min(count, BUCKETS)):
            records = spill.read(range(first, BUCKETS, count))
            for unit, rows in rows_by_unit(records, range(first, count, BUCKETS), count):
                yield FrozenPart(unit, freeze_rows(rows, freeze.captions_per_image))


def rows_by_unit(records: pa.Table, units: range, count: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The records of each of some units, of `count` in all, as dicts."""
    unit_of_record = (records["digest"].to_numpy() % np.uint64(count)).astype(np.int64)
    order = np.argsort(unit_of_record, kind="stable")
    starts, ends = (np.searchsorted(unit_of_record[order], np.array(units), side) for side in ("left", "right"))
    for unit, start, end in zip(units, starts, ends, strict=True):
        yield unit, records.take(pa.array(order[start:end])).to_pylist()


def spilled(row: CaptionRow | BadRow) -> tuple[Any, ...]:
    """One record of `SPILL_SCHEMA`."""
    if isinstance(row, BadRow):
        return (image_digest(row.key), None, None, None, None, None, None, None, row.key, row.reason, row.detail)
    return (image_digest(row.image_id), *row, None, None, None)


def shard_parts(files: Sequence[InputFile], read: ReadOptions, freeze: FreezeOptions) -> Iterator[FrozenPart]:
    """Every unit of an input that is cut along tar shards: a contiguous range of one shard's samples."""
    numbers = itertools.count()
    for shard in show_progress(files, "read captions", "shard"):
        rows = (dict(zip(SPILL_SCHEMA.names, spilled(row), strict=True)) for row in read_shard(shard, read))
        for unit_rows in ranges_of_images(rows, freeze.images_per_unit):
            yield FrozenPart(next(numbers), freeze_rows(unit_rows, freeze.captions_per_image))


def ranges_of_images(rows: Iterable[dict[str, Any]], images: int) -> Iterator[list[dict[str, Any]]]:
    """Cuts records into runs of at most `images` images; the records of an image stand next to each other."""
    unit: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row in rows:
        key = row["image_id"] or row["drop_key"]
        if key not in seen and len(seen) == images:
            yield unit
            unit, seen = [], set()
        seen.add(key)
        unit.append(row)
    if unit:
        yield unit
