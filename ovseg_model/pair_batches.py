"""PAIRS to training batches: seeded, shuffled, split over ranks and workers, resumable at any batch.

    selection = open_pairs("RUN/pairs", where="cosine > 0.25", cap=1000)
    for batch in pair_batches(selection, BatchOptions(batch_size=256), workers=4):
        ...
        state = batch.next_state  # pair_batches(…, start=state) goes on with the batch after this one

The sequence of global batches depends on the selection, the options and the epoch only (`pair_order`); rank r of R gets
its R-th part of every global batch, and its worker w every w-th of those. What is drawn at random for a row depends on
seed, epoch and pair_id. So two ranks see what one sees, and a resumed run what an uninterrupted one sees: batches that
were consumed are neither read nor decoded again.

A row without pixels (its image is missing, has changed, cannot be decoded) does not stop training and is not silent: it
is counted by reason, and the row at the same place of the next batch stands in for it, so that every batch keeps its
size, as gathering over ranks needs. Kept + dropped = read, in every batch and in any sum of them (`BatchCounts`).
`missing="fail"` stops at the first such row instead.

Every worker of a rank reads the row groups that the rank's batches need, a window at a time; with stored crops in a
bucket they are hence fetched once a worker. Each item is drawn for by its own random numbers, and torch's are left
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ovseg_model.pair_batch import BatchCounts, BatchOptions, LoaderState, PairBatch
from ovseg_model.pair_order import EpochOrder, batch_count, batch_positions, substitute_position
from ovseg_model.pair_reader import Picture, Row, RowReader, Unreadable, read_pictures
from ovseg_model.pair_rows import PairSelection, open_pairs
from ovseg_model.region_augmentation import Augmentation, image_item, region_item, seeded_randoms
from ovseg_model.regions import fill_colour, normalise
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Augmentation",
    "BatchCounts",
    "BatchOptions",
    "LoaderState",
    "PairBatch",
    "PairSelection",
    "batches_per_epoch",
    "open_pairs",
    "pair_batches",
]

SUBSTITUTES = 16
"""Rows tried in place of one without pixels; if none has any, the images are not where the table says."""


def batches_per_epoch(selection: PairSelection, options: BatchOptions) -> int:
    """Global batches of an epoch.

    Raises:
        UserError: fewer rows are chosen than one batch has.
    """
    count = batch_count(len(selection), options.batch_size, options.drop_last)
    if not count:
        raise UserError(
            f"--batch {options.batch_size}: only {len(selection)} rows of {selection.url} are chosen; wanted at "
            "least one batch; take a smaller batch or a wider filter"
        )
    return count


def pair_batches(
    selection: PairSelection,
    options: BatchOptions,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    start: LoaderState = LoaderState(),  # noqa: B008, a constant
    epochs: int = 1,
    start_method: str | None = None,
) -> Iterator[PairBatch]:
    """The batches of one rank, from `start` to the end of the last of `epochs` epochs, that of `start` included.

    Args:
        selection: what `open_pairs` chose.
        options: the same for every rank.
        rank: from 0, of `ranks`.
        ranks: processes that train together; they share each batch.
        workers: processes that read and decode; 0 does it here. They open files anew, so that memory:// needs 0, and
            import the main module, whose work must stand under `if __name__ == "__main__"`.
        start: where training is.
        epochs: workers live for so long.
        start_method: of the workers; by default "forkserver" where there is one, since a fork of a process with
            threads (Arrow's, CUDA's, a file system's) may hang.

    Raises:
        UserError: at once when there is no whole batch or it cannot be shared; while reading when rows have no pixels
            and nor have those that should stand in for them.
    """
    count = batches_per_epoch(selection, options)
    if not 0 <= rank < ranks:
        raise UserError(f"rank: wanted one from 0 to {ranks - 1}, got {rank}")
    if options.batch_size % ranks:
        raise UserError(f"--batch {options.batch_size}: wanted a multiple of the {ranks} ranks that share it")
    if not 0 <= start.batches_done <= count or start.epoch < 0:
        raise UserError(f"start: an epoch has {count} batches, got {start}; the filter or the options are others")
    first, last = start.epoch, start.epoch + epochs
    numbers = [(epoch, index) for epoch in range(first, last) for index in range(count)][start.batches_done :]
    return _loaded(_RankBatches(selection, options, rank, ranks), numbers, workers, start_method)


class _Refusal(NamedTuple):
    """A UserError on its way from a worker: raised there, torch would wrap it into a traceback."""

    sentence: str


def _loaded(
    batches: _RankBatches, numbers: Sequence[tuple[int, int]], workers: int, start_method: str | None
) -> Iterator[PairBatch]:
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context=_context(start_method) if workers else None,
        # Else the loader draws its seed from torch's own numbers, and a resumed run would draw once more.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, _Refusal):
            raise UserError(batch.sentence)
        yield batch


def _as_it_is(batch: PairBatch | _Refusal) -> PairBatch | _Refusal:
    return batch


def _context(start_method: str | None):  # noqa: ANN202, multiprocessing's class depends on the platform
    import multiprocessing

    if start_method is None:
        start_method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(["torch", "ovseg_model.pair_batches"])
    return context


class _RankBatches:
    """The batches of one rank by (epoch, index), for DataLoader: it deals the numbers to its workers in turn.

    Picklable: what is open stays at home.
    """

    def __init__(self, selection: PairSelection, options: BatchOptions, rank: int, ranks: int) -> None:
        self.selection = selection
        self.options = options
        self.rank = rank
        self.ranks = ranks
        self._rows: RowReader | None = None
        self._order: tuple[int, EpochOrder] | None = None

    def __getitem__(self, number: tuple[int, int]) -> PairBatch | _Refusal:
        try:
            return self.read(*number)
        except UserError as error:
            return _Refusal(str(error))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_rows": None, "_order": None}

    def read(self, epoch: int, index: int) -> PairBatch:
        order, rows = self.order(epoch), self.rows()
        positions_N = batch_positions(order, self.options.batch_size, index, self.rank, self.ranks)
        if len(positions_N):
            rows.forget_before(int(order.windows(positions_N).min()))
        filling = _Filling(len(positions_N), epoch, self.options)
        waiting = dict(enumerate(positions_N.tolist()))
        for attempt in range(1, SUBSTITUTES + 2):
            failed = filling.fill(list(waiting), rows.read(order, np.array(list(waiting.values()), np.int64)))
            if not failed:
                return filling.batch(index)
            waiting = {
                slot: substitute_position(int(positions_N[slot]), attempt, self.options.batch_size, len(order))
                for slot in failed
            }
        raise UserError(
            f"{self.selection.url}: a row has no pixels, nor have the {SUBSTITUTES} tried in its place "
            f"({filling.counts.details[-1]}); bring the images to where image_uri says, or mine with --crops"
        )

    def rows(self) -> RowReader:
        if self._rows is None:
            self._rows = RowReader(self.selection, self.options.columns)
        return self._rows

    def order(self, epoch: int) -> EpochOrder:
        if self._order is None or self._order[0] != epoch:
            sizes_G = [len(group.rows_N) for group in self.selection.groups]
            self._order = epoch, EpochOrder(sizes_G, self.options.seed, epoch, self.options.window_rows)
            self.rows().forget_all()
        return self._order[1]


class _Filling:
    """A batch while its places are being filled."""

    def __init__(self, size: int, epoch: int, options: BatchOptions) -> None:
        import torch

        side, dtype = options.size_px, getattr(torch, options.pixels)
        self.epoch = epoch
        self.options = options
        self.fill_rgb = fill_colour(options.mean, options.region)
        self.regions_B3SS = torch.empty(size, 3, side, side, dtype=dtype)
        self.masks_BSS = torch.empty(size, side, side, dtype=torch.bool)
        self.whole_B = torch.zeros(size, dtype=torch.bool)
        self.rows: list[Row] = [{}] * size
        self.counts = BatchCounts()
        self.tries = 0

    def fill(self, slots: Sequence[int], rows: Sequence[Row]) -> list[int]:
        """Fills places with rows; returns, ascending, the places whose rows have no pixels."""
        failed = []
        whole = [self.is_whole(row) for row in rows]
        for at, picture in read_pictures(rows, whole, self.options.crops_serve, self.options.fetch):
            if isinstance(picture, Unreadable):
                failed.append(slots[at])
                self.drop(rows[at], picture)
            else:
                self.put(slots[at], rows[at], picture, whole[at])
        self.tries += 1
        return sorted(failed)

    def is_whole(self, row: Row) -> bool:
        if not self.options.whole_share:
            return False
        # Numbers of their own: another share must not change the crops.
        randoms = seeded_randoms(self.options.seed, self.epoch, f"{row['pair_id']} whole")
        return randoms.random() < self.options.whole_share

    def drop(self, row: Row, problem: Unreadable) -> None:
        if self.options.missing == "fail":
            raise UserError(f"pair {row['pair_id']} ({row['noun']}) has no pixels: {problem.reason}: {problem.detail}")
        self.counts += BatchCounts(1, 0, {problem.reason: 1}, 0, (f"{problem.reason}: {problem.detail}",))

    def put(self, slot: int, row: Row, picture: Picture, whole: bool) -> None:
        region_3SS, mask_SS = self.item(row, picture)
        if self.options.pixels == "uint8":
            region_3SS = region_3SS.round_().clamp_(0, 255)
        self.regions_B3SS[slot] = region_3SS
        # A whole image has no background, its padding included.
        self.masks_BSS[slot] = True if whole else mask_SS
        self.whole_B[slot] = whole
        self.rows[slot] = row
        self.counts += BatchCounts(1, 1, {}, int(self.tries > 0))

    def item(self, row: Row, picture: Picture) -> tuple[torch.Tensor, torch.Tensor]:
        options = self.options
        if options.view == "image":
            return image_item(*picture, options.size_px, self.fill_rgb, options.region)
        randoms = seeded_randoms(options.seed, self.epoch, row["pair_id"])
        return region_item(*picture, options.size_px, self.fill_rgb, options.region, options.augmentation, randoms)

    def batch(self, index: int) -> PairBatch:
        options = self.options
        regions = self.regions_B3SS
        if options.pixels == "float32":
            regions = normalise(regions, options.mean, options.std)
        captioned = self.whole_B.tolist() if options.whole_text == "caption" else [False] * len(self.rows)
        return PairBatch(
            regions,
            self.masks_BSS,
            [row["noun"] for row in self.rows],
            [row["caption"] if caption else None for row, caption in zip(self.rows, captioned, strict=True)],
            [row["hard_negatives"] or [] for row in self.rows],
            [row["pair_id"] for row in self.rows],
            self.whole_B,
            self.epoch,
            index,
            self.counts,
        )
