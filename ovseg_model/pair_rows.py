"""Which rows of PAIRS a training run takes: filter and cap, over columns that are cheap to read, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg_model.pair_files import find_pair_files, open_pair_file
from ovseg_model.pair_filter import RowFilter, parse_filter
from schemas import PAIRS, UserError

ROWS_PER_READ = 65_536
"""Rows held at once while choosing, of the few columns that are read."""

CROPS_PER_READ = 1024
"""The same where the filter asks about crop_png: crops are some 20 KB each."""

ROWS_BEFORE_CAP = 1 << 20
"""Rows that wait for the cap, 24 MB: applying it early and again changes nothing, but bounds the memory."""

SHOWN_NOUNS = 10


class RowGroup(NamedTuple):
    """The chosen rows of one row group: its file, its place in the file, and which of its rows, int32 ascending."""

    file: int
    group: int
    rows_N: np.ndarray


@dataclass(frozen=True)
class PairSelection:
    """The rows of PAIRS that training takes. Small and picklable: 4 bytes a row, and no file is open.

    `files` are paths or URLs, `groups` only those with a chosen row, in the order of the files. `nouns` counts the
    chosen rows of each noun, most frequent first. `read` rows are the kept ones and those of `dropped`, by reason:
    "filter" (the filter does not hold) and "cap" (its noun has enough rows).
    """

    url: str
    files: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    nouns: dict[str, int]
    read: int
    dropped: dict[str, int]

    def __len__(self) -> int:
        """Chosen rows."""
        return sum(len(group.rows_N) for group in self.groups)

    def text(self) -> str:
        """What was read, kept and dropped, and the most frequent nouns, for the screen."""
        reasons = "".join(f", {reason} {count:,}" for reason, count in self.dropped.items() if count)
        shown = ", ".join(f"{noun} {count:,}" for noun, count in list(self.nouns.items())[:SHOWN_NOUNS])
        more = " …" if len(self.nouns) > SHOWN_NOUNS else ""
        return (
            f"PAIRS of {self.url}: {self.read:,} read, {len(self):,} kept{reasons}; {len(self.nouns):,} nouns in "
            f"{len(self.groups):,} row groups of {len(self.files):,} files\n"
            f"most frequent nouns: {shown}{more}"
        )


class _Survivors(NamedTuple):
    """Rows that passed the filter: file, row within the file, code of the noun, seeded hash (0 without a cap)."""

    file_N: np.ndarray
    row_N: np.ndarray
    noun_N: np.ndarray
    hash_N: np.ndarray

    def take(self, indices_N: np.ndarray) -> _Survivors:
        return _Survivors(*(array[indices_N] for array in self))


def open_pairs(
    url: str, where: str | None = None, cap: int | None = None, seed: int = 0, allow_meaningless: bool = False
) -> PairSelection:
    """Chooses rows of PAIRS.

    Args:
        url: a run, its pairs folder, a Parquet file, a glob, or an fsspec URL of one of them (`find_pair_files`).
        where: a filter over the columns (`pair_filter`).
        cap: at most so many rows of one noun, those with the lowest hash of seed and pair_id: which ones does not
            depend on the order of files and rows, or on row groups.
        seed: of the cap.
        allow_meaningless: take rows whose scorer had random weights, which is for plumbing only.

    Raises:
        UserError: no file, another table or version, a filter that is none or keeps nothing, or meaningless rows.
    """
    if cap is not None and cap < 1:
        raise UserError(f"--cap: wanted 1 or more rows of a noun, got {cap}")
    row_filter = parse_filter(where, PAIRS) if where is not None else None
    files = find_pair_files(url)
    chooser = _Chooser(row_filter, cap, seed, allow_meaningless)
    group_rows = []
    for number, name in enumerate(files):
        with open_pair_file(name) as file:
            group_rows.append([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
            chooser.read_file(number, file, name)
    survivors = chooser.chosen()
    if not len(survivors.row_N):
        raise UserError(_nothing_chosen(url, files, chooser.read, row_filter))
    groups = tuple(_by_group(survivors, group_rows))
    dropped = {"filter": chooser.read - chooser.passed, "cap": chooser.passed - len(survivors.row_N)}
    return PairSelection(url, tuple(files), groups, chooser.count_nouns(survivors), chooser.read, dropped)


class _Chooser:
    """Collects the rows that pass the filter, file after file, and keeps no more than the cap needs."""

    def __init__(self, row_filter: RowFilter | None, cap: int | None, seed: int, allow_meaningless: bool) -> None:
        self.filter = row_filter
        self.cap = cap
        self.seed = seed
        self.allow_meaningless = allow_meaningless
        self.codes: dict[str, int] = {}
        self.waiting: list[_Survivors] = []
        self.waiting_rows = self.read = self.passed = 0

    def read_file(self, number: int, file: pq.ParquetFile, name: str) -> None:
        for start, rows in read_in_chunks(file, ("pair_id", "noun", "meaningless", *_columns(self.filter))):
            passed = _passing(rows, self.filter)
            self.read, self.passed = self.read + rows.num_rows, self.passed + passed.num_rows
            self.refuse_meaningless(passed, name)
            self.waiting.append(self.survivors(number, start, passed))
            self.waiting_rows += passed.num_rows
            if self.cap and self.waiting_rows > ROWS_BEFORE_CAP:
                self.waiting = [self.chosen()]
                # What the cap has kept does not count: else every chunk would be sorted once it keeps many.
                self.waiting_rows = 0

    def refuse_meaningless(self, rows: pa.Table, name: str) -> None:
        if not self.allow_meaningless and rows["meaningless"].to_numpy().any():
            raise UserError(
                f"{name}: holds pairs whose scorer had random weights, which mean nothing; mine with trained weights "
                "(--clip), or train on them with --allow-meaningless to try the plumbing"
            )

    def survivors(self, number: int, start: int, rows: pa.Table) -> _Survivors:
        places = start + rows["place"].to_numpy()
        hashes = seeded_hashes(self.seed, rows["pair_id"].to_pylist()) if self.cap else np.zeros(len(places), np.uint64)
        return _Survivors(np.full(len(places), number, np.int32), places, self.encode(rows["noun"]), hashes)

    def encode(self, nouns: pa.ChunkedArray) -> np.ndarray:
        """One number a noun, int32, the same in every file."""
        encoded = nouns.combine_chunks().dictionary_encode()
        codes = [self.codes.setdefault(noun, len(self.codes)) for noun in encoded.dictionary.to_pylist()]
        return np.asarray(codes, np.int32)[encoded.indices.to_numpy()]

    def chosen(self) -> _Survivors:
        empty = _Survivors(*(np.zeros(0, dtype) for dtype in (np.int32, np.int64, np.int32, np.uint64)))
        joined = _Survivors(*map(np.concatenate, zip(empty, *self.waiting, strict=True)))
        return joined.take(_within_cap(joined, self.cap)) if self.cap else joined

    def count_nouns(self, survivors: _Survivors) -> dict[str, int]:
        counts = np.bincount(survivors.noun_N, minlength=len(self.codes)).tolist()
        named = Counter({noun: count for noun, count in zip(self.codes, counts, strict=True) if count})
        return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def read_in_chunks(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of one file, some columns only, at most ROWS_PER_READ at once, with the first one's place."""
    start, rows = 0, CROPS_PER_READ if "crop_png" in columns else ROWS_PER_READ
    for batch in file.iter_batches(rows, columns=list(dict.fromkeys(columns))):
        yield start, pa.Table.from_batches([batch])
        start += batch.num_rows


def seeded_hashes(seed: int, texts: Sequence[str]) -> np.ndarray:
    """One 64-bit number a text, uint64 (N,): its order is a shuffle that depends on seed and texts only."""
    key = str(seed).encode()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _columns(row_filter: RowFilter | None) -> tuple[str, ...]:
    return row_filter.columns if row_filter else ()


def _passing(rows: pa.Table, row_filter: RowFilter | None) -> pa.Table:
    """The rows that pass, in their order, with their places within `rows` as the column "place"."""
    placed = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
    return placed.filter(row_filter.expression).sort_by("place") if row_filter else placed


def _within_cap(rows: _Survivors, cap: int) -> np.ndarray:
    """Indices, ascending, of the `cap` rows of each noun with the lowest hashes; equal hashes go by place."""
    order_N = np.lexsort((rows.row_N, rows.file_N, rows.hash_N, rows.noun_N))
    noun_N = rows.noun_N[order_N]
    first_N = np.searchsorted(noun_N, noun_N, side="left")
    return np.sort(order_N[np.arange(len(order_N)) - first_N < cap])


def _by_group(rows: _Survivors, group_rows: Sequence[Sequence[int]]) -> Iterator[RowGroup]:
    """The row groups that hold a chosen row; rows come in the order of files and places."""
    for file, sizes in enumerate(group_rows):
        row_N = rows.row_N[np.searchsorted(rows.file_N, file) : np.searchsorted(rows.file_N, file, side="right")]
        ends = np.cumsum(sizes)
        cuts = np.searchsorted(row_N, ends)
        for group, (start, end) in enumerate(zip([0, *cuts], cuts, strict=False)):
            if end > start:
                yield RowGroup(file, group, (row_N[start:end] - (ends[group] - sizes[group])).astype(np.int32))


def _nothing_chosen(url: str, files: Sequence[str], read: int, row_filter: RowFilter | None) -> str:
    if not read or row_filter is None:
        return f"--pairs {url}: the table has no rows; mine pairs first"
    kept = Counter(dict.fromkeys((condition.text for condition in row_filter.conditions), 0))
    for name in files:
        with open_pair_file(name) as file:
            for _, rows in read_in_chunks(file, row_filter.columns):
                kept.update({each.text: rows.filter(each.expression).num_rows for each in row_filter.conditions})
    alone = ", ".join(f"{text} keeps {count:,}" for text, count in kept.items())
    return f"--where {row_filter.text!r}: none of the {read:,} rows of {url} is kept; alone, {alone}; ask for less"


def hard_negative_nouns(pairs: PairSelection) -> set[str]:
    """Returns every noun of the column hard_negatives in the selection's files.

    Raises UserError where no row has any: training with them would be training without.
    """
    found: set[str] = set()
    for name in pairs.files:
        with open_pair_file(name) as file:
            for batch in file.iter_batches(ROWS_PER_READ, columns=["hard_negatives"]):
                found.update(noun for noun in pc.list_flatten(batch.column(0)).unique().to_pylist() if noun)
    if not found:
        raise UserError(
            f"--hard-negatives: no row of {pairs.url} has any (the column hard_negatives is null); leave the option "
            "away, or mine them first"
        )
    return found
