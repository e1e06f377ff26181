"""PAIRS of a finished run on their way out: chosen, read in bounded memory, counted; what is left out is a drop."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.pair_files import find_pair_files, open_pair_file
from ovseg_model.pair_filter import RowFilter, parse_filter
from ovseg_model.pair_reader import Unreadable
from pipelines.exports.public_names import host_of, without_private_uri
from pipelines.progress import show_progress
from pipelines.units import drops_name
from pipelines.write_tables import RUN_FILE, RunFolder, parquet_bytes, run_folder_at
from schemas import DROPS, PAIRS, SchemaError, UserError, conform, conform_columns
from schemas.run import check_run

STAGE = "export_pairs"

ROWS_PER_READ = 1024
"""Rows held at once: each may carry a crop of some 20 KB."""

ROWS_PER_PICTURE = 64
"""Rows held at once where each becomes pictures."""

ROWS_PER_SCAN = 16_384
"""Rows held at once of the few columns that a first look reads."""

REASONS = {"bad_mask": "bad_annotation"}
"""What the reader of pixels calls otherwise than DROPS."""


@dataclass
class Tally:
    """What an export holds; memory grows with distinct nouns, licences and hosts only."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    images: int = 0
    meaningless: int = 0
    nouns: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    safety: Counter[str] = field(default_factory=Counter)
    scorers: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    last_image: str | None = None

    def add(self, rows: pa.Table) -> None:
        """Counts rows of PAIRS that are kept; an image's rows come one after another."""
        images = rows["image_id"].to_pylist()
        self.images += sum(a != b for a, b in zip([self.last_image, *images], images, strict=False))
        self.last_image = images[-1] if images else self.last_image
        self.kept += rows.num_rows
        self.meaningless += pc.sum(rows["meaningless"]).as_py() or 0
        for name, counter in (("noun", self.nouns), ("licence", self.licences), ("safety", self.safety)):
            counter.update(value_counts(rows[name]))
        for name, counter in (("scorer", self.scorers), ("generator", self.generators)):
            counter.update(value_counts(rows[name]))
        for uri, count in value_counts(pc.coalesce(rows["source_url"], rows["image_uri"])).items():
            self.hosts[host_of(uri)] += count

    def totals(self) -> dict[str, Any]:
        """Read, kept and dropped by reason; kept + dropped = read."""
        return {"read": self.read, "kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}


def value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column of strings; null counts as ""."""
    return {each["values"] or "": each["counts"] for each in pc.value_counts(column).to_pylist()}


class SelectedPairs:
    """The pairs of a finished run that an export takes, for one way through them; what it leaves out is written.

    Drops are written to `folder` part by part, in the order of the run's parts.
    """

    def __init__(self, url: str, where: str | None, folder: RunFolder) -> None:
        """Opens a run; raises UserError where there is no finished one with PAIRS, or `where` is no condition."""
        self.files = find_run_parts(url)
        self.run = run_folder_at(url, "RUN")
        manifest = self.run.read(RUN_FILE)
        self.manifest = check_run(json.loads(manifest))
        self.run_sha256 = hashlib.sha256(manifest).hexdigest()
        self.filter: RowFilter | None = parse_filter(where, PAIRS) if where is not None else None
        self.tally = Tally()
        self._folder = folder
        self._drops: list[pa.Table] = []

    def batches(self, most_rows: int, without: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Rows of PAIRS as they were mined but for some columns, at most `most_rows` at once, no table empty.

        Each batch must be told to `keep` or `drop` before the next one is asked for.

        Raises:
            UserError: a part cannot be read, or breaks the table's contract.
        """
        columns = [name for name in PAIRS.schema.names if name not in without]
        rows_there = self.manifest["tables"]["pairs"]["rows"]
        # What is read counts, not what is kept: with --where the bar would never reach its total.
        for rows in show_progress(self._read(most_rows, columns), "export", "pairs", rows_there, len):
            selected = self._selected(rows)
            if len(selected):
                yield selected

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the rows that `batches` will give, in larger pieces; nothing is counted.

        Raises:
            UserError: as `batches`.
        """
        for name in self.files:
            for rows in read_rows(name, columns, self.filter, ROWS_PER_SCAN):
                yield rows.filter(self.filter.expression) if self.filter else rows

    def keep(self, rows: pa.Table) -> None:
        """Counts rows that are in the export."""
        self.tally.add(rows)

    def keep_readable(self, rows: pa.Table, made: Sequence[Any | Unreadable]) -> pa.Table:
        """Counts the rows whose pixels could be had and returns them; the others are dropped."""
        is_made = [not isinstance(each, Unreadable) for each in made]
        lost = [(row, each) for row, each in zip(dropped_keys(rows), made, strict=True) if isinstance(each, Unreadable)]
        self._drop(
            [row["pair_id"] for row, _ in lost],
            [row["image_id"] for row, _ in lost],
            [REASONS.get(each.reason, each.reason) for _, each in lost],
            [without_private_uri(each.detail, row["image_uri"]) for row, each in lost],
        )
        kept = rows.filter(pa.array(is_made, pa.bool_()))
        self.keep(kept)
        return kept

    def _read(self, most_rows: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows; once those of a part are through, its drops are written."""
        for part, name in enumerate(self.files):
            for rows in read_rows(name, columns, self.filter, most_rows):
                self.tally.read += rows.num_rows
                yield rows
            self._write_drops(part)

    def _selected(self, rows: pa.Table) -> pa.Table:
        """The rows that the filter lets pass, in their order; the others are dropped."""
        if self.filter is None:
            return rows
        # By place and not by a negated filter: of a null a condition and its negation are null, and neither passes.
        placed = rows.append_column("place", pa.array(range(rows.num_rows)))
        passed = placed.filter(self.filter.expression)
        left = placed.filter(pc.invert(pc.is_in(placed["place"], passed["place"].combine_chunks())))
        detail = f"--where {self.filter.text}"
        self._drop(left["pair_id"], left["image_id"], ["not_selected"] * len(left), [detail] * len(left))
        return passed.sort_by("place").drop_columns("place")

    def _drop(self, keys: Any, image_ids: Any, reasons: list[str], details: list[str]) -> None:
        if reasons:
            columns = [[STAGE] * len(reasons), keys, image_ids, reasons, details]
            self._drops.append(pa.Table.from_arrays(list(map(as_strings, columns)), schema=DROPS.schema))
            self.tally.dropped.update(reasons)

    def _write_drops(self, part: int) -> None:
        if self._drops:
            rows = pa.concat_tables(self._drops).sort_by("key")
            self._folder.write(drops_name(STAGE, part), parquet_bytes(conform(rows, DROPS), DROPS, {}))
            self._drops = []


def find_run_parts(url: str) -> list[str]:
    """The parts of PAIRS that a run's manifest lists.

    Raises:
        UserError: there is no finished run, or it has no PAIRS.
    """
    if not run_folder_at(url, "RUN").has(RUN_FILE):
        raise UserError(f"{url}: there is no finished run; mine it first with ovseg mine --output {url}")
    return find_pair_files(url, "RUN")


def read_rows(name: str, columns: Sequence[str], row_filter: RowFilter | None, rows: int) -> Iterator[pa.Table]:
    """Some columns of one part, and those that a filter reads, at most `rows` rows at once.

    Raises:
        UserError: the part cannot be read, or breaks the table's contract.
    """
    wanted = list(dict.fromkeys([*columns, *(row_filter.columns if row_filter else ())]))
    if "crop_png" in wanted:
        rows = min(rows, ROWS_PER_READ)
    with open_pair_file(name) as file:
        try:
            for batch in file.iter_batches(rows, columns=wanted):
                yield conform_columns(pa.Table.from_batches([batch]), PAIRS)
        except (OSError, pa.ArrowInvalid, SchemaError) as error:
            raise UserError(f"{name}: cannot be read ({str(error).splitlines()[0]}); mine the run again") from error


def dropped_keys(rows: pa.Table) -> list[dict[str, Any]]:
    """What a drop says of each row."""
    return rows.select(["pair_id", "image_id", "image_uri"]).to_pylist()


def as_strings(values: Any) -> pa.Array:
    """A column of strings from a list or a column."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.string())
