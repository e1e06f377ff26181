"""The order of an epoch: a seeded two-level shuffle of row groups and rows, cut into batches, ranks and workers.

Row groups are shuffled and laid end to end; the line is cut into windows of several row groups, and rows are shuffled
within their window. Global batches are cut from that order, and only then is a batch split over ranks: what is in batch
number b depends on neither ranks nor workers, and any place of the epoch is found without walking to it. Another
row-group layout of the same rows gives another order.

Within a batch rows are sorted by row group. A contrastive loss does not see the order within a batch, and a rank's
share of every batch then comes from its own share of a window's row groups, instead of from all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOWS_KEPT = 4
"""Shuffles kept: a batch reaches over two windows at most, and a substitute's row may lie in the next."""


class EpochOrder:
    """The shuffled rows of one epoch. Memory: one number a row group, and the shuffles of a few windows.

    Places are (group, row): index of the row group in `sizes_G`, and which of its rows.
    """

    def __init__(self, sizes_G: Sequence[int], seed: int, epoch: int, window_rows: int) -> None:
        """Takes the rows of each row group, none empty, and the rows that a window has at least."""
        self._key = seed, epoch
        self._group_G = _shuffle(len(sizes_G), *self._key)
        self._ends_G = np.cumsum(np.asarray(sizes_G, np.int64)[self._group_G])
        self._starts_G = np.concatenate([[0], self._ends_G[:-1]])
        self._window_ends = _window_ends(self._ends_G, window_rows)
        self._shuffles: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Rows of the epoch."""
        return int(self._ends_G[-1])

    def windows(self, positions_N: np.ndarray) -> np.ndarray:
        """The window of each position in the epoch, int64 (N,)."""
        return np.searchsorted(self._window_ends, positions_N, side="right")

    def places(self, positions_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row group and row, int64 (N,) each, at each position in the epoch."""
        lined_up_N = np.empty(len(positions_N), np.int64)
        windows_N = self.windows(positions_N)
        for window in np.unique(windows_N).tolist():
            start = int(self._window_ends[window - 1]) if window else 0
            inside_N = windows_N == window
            lined_up_N[inside_N] = start + self._shuffled(window, start)[positions_N[inside_N] - start]
        at_N = np.searchsorted(self._ends_G, lined_up_N, side="right")
        return self._group_G[at_N], lined_up_N - self._starts_G[at_N]

    def _shuffled(self, window: int, start: int) -> np.ndarray:
        if window not in self._shuffles:
            if len(self._shuffles) == WINDOWS_KEPT:
                self._shuffles.pop(next(iter(self._shuffles)))
            self._shuffles[window] = _shuffle(int(self._window_ends[window]) - start, *self._key, window + 1)
        return self._shuffles[window]


def _window_ends(ends_G: np.ndarray, window_rows: int) -> np.ndarray:
    """Where windows end: after the first row group with which they have `window_rows` rows; the last may have fewer."""
    ends: list[int] = []
    start = 0
    for end in ends_G.tolist():
        if end - start >= window_rows:
            ends.append(end)
            start = end
    return np.array([*ends, ends_G[-1]] if start < ends_G[-1] else ends, np.int64)


def _shuffle(size: int, *key: int) -> np.ndarray:
    """A permutation of 0 … size - 1, int64, that depends on the key only.

    Philox's raw numbers are the same in every release of NumPy, which the methods of its generators are not: a run may
    be resumed after an upgrade.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(size), kind="stable")


def batch_count(rows: int, batch_size: int, drop_last: bool) -> int:
    """Batches of an epoch; without `drop_last` the last may be smaller."""
    return rows // batch_size if drop_last else -(-rows // batch_size)


def batch_positions(order: EpochOrder, batch_size: int, index: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
    """Positions in the epoch of one rank's rows of global batch `index`, sorted by row group and row, int64 (N,).

    Ranks take contiguous shares; of a smaller last batch they may differ by one row, or be empty.
    """
    positions_N = np.arange(index * batch_size, min((index + 1) * batch_size, len(order)))
    groups_N, rows_N = order.places(positions_N)
    sorted_N = positions_N[np.lexsort((rows_N, groups_N))]
    return sorted_N[len(sorted_N) * rank // ranks : len(sorted_N) * (rank + 1) // ranks]


def substitute_position(position: int, attempt: int, batch_size: int, rows: int) -> int:
    """The position whose row stands in for that at `position`: the same one of the next batches, round the epoch.

    So that no batch has a row twice where there are others; `attempt` counts from 1. It does not depend on ranks.
    """
    step = attempt * batch_size
    return (position + step + step // rows) % rows
