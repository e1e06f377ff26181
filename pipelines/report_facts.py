"""What a report shows of a run, read from its files; memory and time are bounded, whatever the run's size.

Counts stand in run.json and are exact. Distributions, regions and examples are of a sample where a table is large:
parts at even distances, which are images at random, since units are cut by a hash. The sample is the same every time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.read_ahead import read_ahead
from pipelines.write_tables import PART_NAME, RUN_FILE, TIMINGS_FILE, RunFolder
from schemas import TABLES, UserError
from schemas.drops import REASONS

if TYPE_CHECKING:
    from ovseg_model.images import FetchedImage

SAMPLE_ROWS, SAMPLE_PARTS = 250_000, 600
"""What is read of a table at most, about: some seconds, and 50 MB."""

READERS = 8
"""Threads that read parts: a store answers one by one too slowly."""

REGIONS_A_GROUP = 8
CAPTIONS_SHOWN = 12
CAPTIONS_LOOKED_AT = 2_000
DROPS_SHOWN = 5

TILE_PX = 240
"""The longer side of a region's picture: sharp on a phone, and 32 of them are half a megabyte."""

REGION_ORDER = (("cosine", "descending"), ("pair_id", "ascending"))
DROPS_ORDER = (("key", "ascending"), ("detail", "ascending"))

SCORE_COLUMNS = ("pair_id", "cosine", "margin", "area_px", "height", "width")
AREA_COLUMNS = ("area_px", "height", "width")
DROPS_COLUMNS = ("key", "reason", "detail")
REGION_COLUMNS = (
    *("image_id", "image_uri", "image_sha256", "mask", "noun", "cosine", "caption", "start_char", "end_char"),
    *("source_url", "licence"),
)


@dataclass(frozen=True)
class Sample:
    """Rows of a table, with the columns `part` (int32, place in `paths`) and `row` (int64, place in that part)."""

    rows: pa.Table
    paths: tuple[str, ...]
    rows_there: int
    parts_there: int

    @property
    def is_whole(self) -> bool:
        """Whether no row was left out."""
        return self.rows.num_rows == self.rows_there


class Region(NamedTuple):
    """A PAIRS row (REGION_COLUMNS) and its picture: JPEG, the mask tinted."""

    row: dict[str, Any]
    jpeg: bytes


class MarkedCaption(NamedTuple):
    """A caption and its nouns: NOUNS rows, by place."""

    image_id: str
    text: str
    nouns: list[dict[str, Any]]


@dataclass(frozen=True)
class ReportFacts:
    """All that a report shows. What a run does not have is None or empty."""

    name: str
    manifest: dict[str, Any]
    timings: dict[str, Any]
    pairs: Sample | None
    masks: Sample | None
    vocabulary: pa.Table | None
    regions: dict[str, list[Region]]
    """By group: best, median, worst, random."""

    left_out: dict[str, int]
    """Regions that cannot be drawn, by why, in words."""

    captions: list[MarkedCaption]
    drops: dict[tuple[str, str], list[dict[str, Any]]]
    """A few DROPS rows by stage and reason."""


def read_facts(run: RunFolder, fetch: FetchOptions) -> ReportFacts:
    """Reads a finished run, and the images of the regions that are shown.

    Raises:
        UserError: a part is missing or damaged.
    """
    manifest = run.read_json(RUN_FILE)
    pairs = sample_of(run, manifest, "pairs", SCORE_COLUMNS)
    regions, left_out = read_regions(run, pairs, fetch) if pairs else ({}, {})
    return ReportFacts(
        name=run.url.rstrip("/").rsplit("/", 1)[-1],
        manifest=manifest,
        timings=run.read_json(TIMINGS_FILE) if run.has(TIMINGS_FILE) else {},
        pairs=pairs,
        masks=sample_of(run, manifest, "masks", AREA_COLUMNS),
        vocabulary=read_vocabulary(run, manifest),
        regions=regions,
        left_out=left_out,
        captions=read_captions(run, manifest),
        drops=read_drops(run, manifest),
    )


def sample_of(run: RunFolder, manifest: Mapping[str, Any], table: str, columns: tuple[str, ...]) -> Sample | None:
    """Some columns of a table; None where the run has no rows of it."""
    parts = parts_of(manifest, table)
    return read_sample(run, parts, columns) if parts else None


def parts_of(manifest: Mapping[str, Any], table: str) -> list[dict[str, Any]]:
    """The parts of a table that have rows, as run.json lists them."""
    return [part for part in manifest["tables"].get(table, {"parts": []})["parts"] if part["rows"]]


def read_sample(run: RunFolder, parts: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> Sample:
    """Some columns of some parts; raises UserError for a part that cannot be read."""
    paths = tuple(part["path"] for part in spread(parts))
    read = read_ahead(lambda path: read_columns(run, path, columns), paths, READERS)
    rows = pa.concat_tables([placed(each, number) for number, each in enumerate(read)])
    return Sample(rows, paths, sum(part["rows"] for part in parts), len(parts))


def spread(parts: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Every part, or every nth of many."""
    rows = sum(part["rows"] for part in parts)
    step = max(1, -(-rows // SAMPLE_ROWS), -(-len(parts) // SAMPLE_PARTS))
    return parts[::step]


def placed(rows: pa.Table, part: int) -> pa.Table:
    """The rows of a part with where they stand."""
    parts, places = np.full(rows.num_rows, part, np.int32), np.arange(rows.num_rows)
    return rows.append_column("part", pa.array(parts)).append_column("row", pa.array(places))


def read_columns(run: RunFolder, path: str, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of a part, in this order.

    Raises:
        UserError: the part is missing or damaged.
    """
    schema = TABLES[path.split("/", 1)[0]].schema
    try:
        # As the table has them: a part's own footer would make two parts differ.
        return run.read_columns(path, columns).select(list(columns)).cast(pa.schema([schema.field(c) for c in columns]))
    except (OSError, KeyError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise UserError(
            f"{run.path(path)}: cannot be read ({problem}); give the command that made the run once more"
        ) from error


def area_shares(rows: pa.Table) -> np.ndarray:
    """The mask's share of its image by row, float64 (N,), above 0 to 1."""
    area, height, width = (rows[name].to_numpy().astype(np.float64) for name in AREA_COLUMNS)
    return area / (height * width)


def choose_regions(pairs: pa.Table, count: int = REGIONS_A_GROUP) -> dict[str, list[int]]:
    """Places of pairs to look at, by group: highest, middle and lowest cosines, and the smallest content hashes."""
    order = pc.sort_indices(pairs, list(REGION_ORDER)).to_pylist()
    middle = max(0, (len(order) - count) // 2)
    by_hash = pc.select_k_unstable(pairs, min(count, len(order)), [("pair_id", "ascending"), ("part", "ascending")])
    return {
        "best": order[:count],
        "median": order[middle : middle + count],
        "worst": order[-count:][::-1],
        "random": by_hash.to_pylist(),
    }


def read_regions(run: RunFolder, pairs: Sample, fetch: FetchOptions) -> tuple[dict[str, list[Region]], dict[str, int]]:
    """Regions by group, and how many could not be drawn, by why."""
    chosen = choose_regions(pairs.rows)
    places = list(dict.fromkeys(place for group in chosen.values() for place in group))
    drawn = dict(zip(places, draw_regions(rows_at(run, pairs, places), fetch), strict=True))
    left_out = Counter(region for region in drawn.values() if isinstance(region, str))
    groups = {
        name: [region for place in group if isinstance(region := drawn[place], Region)]
        for name, group in chosen.items()
    }
    return groups, dict(sorted(left_out.items()))


def rows_at(run: RunFolder, pairs: Sample, places: Sequence[int]) -> list[dict[str, Any]]:
    """Whole rows (REGION_COLUMNS) at places of a sample, a part at a time."""
    found = pairs.rows.select(["part", "row"]).take(pa.array(places, pa.int64())).to_pylist()
    wanted: dict[int, list[int]] = {}
    for place in found:
        wanted.setdefault(place["part"], []).append(place["row"])
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for part, numbers in wanted.items():
        read = read_columns(run, pairs.paths[part], REGION_COLUMNS).take(numbers).to_pylist()
        rows.update(zip([(part, number) for number in numbers], read, strict=True))
    return [rows[place["part"], place["row"]] for place in found]


def draw_regions(rows: Sequence[dict[str, Any]], fetch: FetchOptions) -> list[Region | str]:
    """A region a row, or why there is no picture, in words; an image is read once, and few are held at once."""
    from ovseg_model.images import read_images

    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(row["image_uri"], []).append(number)
    drawn: dict[int, Region | str] = {}
    for of_image, image in zip(numbers.values(), read_images(list(numbers), fetch), strict=True):
        drawn.update((number, draw_region(rows[number], image)) for number in of_image)
    return [drawn[number] for number in range(len(rows))]


def draw_region(row: dict[str, Any], image: FetchedImage | ImageError) -> Region | str:
    """The region of a row in its image; parts are not checked here as they are where they train."""
    from pipelines.draw_pairs import region_jpeg

    if isinstance(image, ImageError):
        return REASONS[image.reason].meaning
    if image.sha256 != row["image_sha256"]:
        return REASONS["image_changed"].meaning
    try:
        return Region(row, region_jpeg(image.pixels, row["mask"], TILE_PX))
    except ValueError:
        return "the mask is damaged"


def read_vocabulary(run: RunFolder, manifest: Mapping[str, Any]) -> pa.Table | None:
    """VOCABULARY, of which a run has one part; memory grows with distinct nouns, as it does where it is counted."""
    parts = parts_of(manifest, "vocabulary")
    names = tuple(TABLES["vocabulary"].schema.names)
    return read_columns(run, parts[0]["path"], names) if parts else None


def read_captions(run: RunFolder, manifest: Mapping[str, Any]) -> list[MarkedCaption]:
    """A few captions of the first unit that has some, by hash of their keys, each with its nouns."""
    nouns_paths = {part["path"] for part in parts_of(manifest, "nouns")}
    for part in parts_of(manifest, "captions"):
        nouns_path = part["path"].replace("captions/", "nouns/", 1)
        if nouns_path in nouns_paths:
            captions = read_columns(run, part["path"], ("image_id", "caption_index", "caption"))
            return mark_captions(captions.slice(0, CAPTIONS_LOOKED_AT), read_nouns(run, nouns_path))
    return []


def read_nouns(run: RunFolder, path: str) -> pa.Table:
    """What marks the nouns of one part of NOUNS."""
    columns = ("image_id", "caption_index", "noun", "start_char", "end_char", "abstract", "generic")
    return read_columns(run, path, columns)


def mark_captions(captions: pa.Table, nouns: pa.Table) -> list[MarkedCaption]:
    """The captions with the smallest hashes of their keys, with those of the nouns that are theirs."""
    chosen = sorted(captions.to_pylist(), key=lambda row: hashlib.sha256(caption_key(row).encode()).digest())
    chosen = chosen[:CAPTIONS_SHOWN]
    of_images = pc.is_in(nouns["image_id"], pa.array([row["image_id"] for row in chosen], pa.string()))
    by_caption: dict[str, list[dict[str, Any]]] = {}
    for noun in nouns.filter(of_images).to_pylist():
        by_caption.setdefault(caption_key(noun), []).append(noun)
    return [MarkedCaption(row["image_id"], row["caption"], by_caption.get(caption_key(row), [])) for row in chosen]


def caption_key(row: Mapping[str, Any]) -> str:
    """A caption's key, of CAPTIONS or NOUNS."""
    return f"{row['image_id']}#{row['caption_index']}"


def read_drops(run: RunFolder, manifest: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The DROPS rows with the lowest keys, by stage and reason."""
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for stage, parts in parts_by_stage(parts_of(manifest, "drops")).items():
        rows = read_sample(run, parts, DROPS_COLUMNS).rows
        for reason in sorted(pc.unique(rows["reason"]).to_pylist()):
            examples[stage, reason] = lowest_keys(rows.filter(pc.equal(rows["reason"], reason)))
    return examples


def parts_by_stage(parts: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Parts of DROPS by the stage that their names say."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        name = PART_NAME.fullmatch(part["path"].rsplit("/", 1)[-1])
        found.setdefault((name and name[2]) or "", []).append(part)
    return found


def lowest_keys(rows: pa.Table) -> list[dict[str, Any]]:
    """A few rows of DROPS."""
    places = pc.select_k_unstable(rows, min(DROPS_SHOWN, rows.num_rows), list(DROPS_ORDER))
    return rows.take(places).to_pylist()
