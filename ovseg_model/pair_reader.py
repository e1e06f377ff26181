"""What a worker reads: chosen rows of PAIRS by their place, and the pixels that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ovseg_model.fetch_options import FetchOptions, ImageError
from ovseg_model.images import FetchedImage, decode_image, read_images
from ovseg_model.pair_files import open_pair_file
from ovseg_model.pair_order import EpochOrder
from ovseg_model.pair_rows import PairSelection
from ovseg_model.rle import decode_masks
from schemas import PAIRS, SchemaError, UserError, conform_columns

OPEN_FILES = 16

Row = dict[str, Any]


class Picture(NamedTuple):
    """Pixels of a row and its mask in the same frame: RGB uint8 (H, W, 3), bool (H, W)."""

    image_HW3: np.ndarray
    mask_HW: np.ndarray


class Unreadable(NamedTuple):
    """Why a row has no pixels: a reason of schemas.drops.IMAGES, "image_changed" or "bad_mask", and its words."""

    reason: str
    detail: str


class RowReader:
    """Chosen rows by (row group, row), from a few open files and the row groups of the windows in use.

    Only chosen rows are kept of a row group, hence at most some two windows of rows.
    """

    def __init__(self, selection: PairSelection, columns: Sequence[str]) -> None:
        """Takes the selection and the columns that its rows shall have."""
        self._selection = selection
        self._columns = list(columns)
        self._files: dict[int, pq.ParquetFile] = {}
        self._groups: dict[int, pa.Table] = {}
        self._window_of: dict[int, int] = {}

    def read(self, order: EpochOrder, positions_N: np.ndarray) -> list[Row]:
        """The rows at these positions of an epoch, in their order."""
        groups_N, rows_N = order.places(positions_N)
        self._window_of.update(zip(groups_N.tolist(), order.windows(positions_N).tolist(), strict=True))
        rows: list[Row] = [{}] * len(positions_N)
        for group in np.unique(groups_N).tolist():
            slots = np.flatnonzero(groups_N == group)
            found = self._group(group).take(pa.array(rows_N[slots])).to_pylist()
            for slot, row in zip(slots.tolist(), found, strict=True):
                rows[slot] = row
        return rows

    def forget_before(self, window: int) -> None:
        """Drops the row groups of windows that are over."""
        for group in [group for group, its in self._window_of.items() if its < window]:
            self._window_of.pop(group)
            self._groups.pop(group, None)

    def forget_all(self) -> None:
        """Drops every row group: another epoch has other windows."""
        self._window_of.clear()
        self._groups.clear()

    def _group(self, number: int) -> pa.Table:
        if number not in self._groups:
            file, group, rows_N = self._selection.groups[number]
            whole = self._file(file).read_row_group(group, columns=self._columns, use_threads=False)
            try:
                conform_columns(whole, PAIRS)
            except SchemaError as error:
                raise UserError(f"{self._selection.files[file]}, row group {group}: {error}; mine it again") from error
            self._groups[number] = whole.take(pa.array(rows_N)).combine_chunks()
        return self._groups[number]

    def _file(self, number: int) -> pq.ParquetFile:
        if number not in self._files:
            if len(self._files) == OPEN_FILES:
                self._files.pop(next(iter(self._files))).close(force=True)
            self._files[number] = open_pair_file(self._selection.files[number])
        return self._files[number]


def read_pictures(
    rows: Sequence[Row], whole: Sequence[bool], crops_serve: bool, fetch: FetchOptions
) -> Iterator[tuple[int, Picture | Unreadable]]:
    """The pixels and mask of each row, with its index; in any order, each image read and decoded once.

    rows: of PAIRS; whole: whether the row shows all of its image, unmasked: then the mask is True everywhere;
    crops_serve: whether a stored crop, which is the image inside the mask's box, serves where the row has one.
    """
    by_uri: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if crops_serve and not whole[index] and row.get("crop_png") is not None:
            yield index, _stored_crop(row, fetch)
        else:
            by_uri.setdefault(row["image_uri"], []).append(index)
    # As they come, not as a list: a batch of decoded photographs would be hundreds of MB.
    for indices, result in zip(by_uri.values(), read_images(list(by_uri), fetch), strict=True):
        for index in indices:
            yield index, _of_image(rows[index], whole[index], result)


def _stored_crop(row: Row, fetch: FetchOptions) -> Picture | Unreadable:
    x, y, width, height = row["box_xywh_px"]
    try:
        crop_HW3 = decode_image(row["crop_png"], fetch)
    except ImageError as error:
        return Unreadable(error.reason, f"crop_png of pair {row['pair_id']}: {error.detail}")
    if crop_HW3.shape[:2] != (height, width):
        got = f"{crop_HW3.shape[1]} × {crop_HW3.shape[0]}"
        return Unreadable("image_changed", f"crop_png of pair {row['pair_id']}: wanted {width} × {height}, got {got}")
    mask_HW = _decoded_mask(row)
    if isinstance(mask_HW, Unreadable):
        return mask_HW
    return Picture(crop_HW3, mask_HW[y : y + height, x : x + width])


def _of_image(row: Row, whole: bool, result: FetchedImage | ImageError) -> Picture | Unreadable:
    if isinstance(result, ImageError):
        return Unreadable(result.reason, result.detail)
    if result.sha256 != row["image_sha256"]:
        wanted = f"its pairs were mined from bytes with sha256 {row['image_sha256']}"
        return Unreadable("image_changed", f"{row['image_uri']}: {wanted}, now it is {result.sha256}")
    if whole:
        return Picture(result.pixels, np.ones(result.pixels.shape[:2], bool))
    mask_HW = _decoded_mask(row)
    if isinstance(mask_HW, Unreadable):
        return mask_HW
    if mask_HW.shape != result.pixels.shape[:2]:
        got = f"mask {mask_HW.shape}, image {result.pixels.shape[:2]}"
        return Unreadable("bad_mask", f"pair {row['pair_id']}: wanted one (height, width), got {got}")
    return Picture(result.pixels, mask_HW)


def _decoded_mask(row: Row) -> np.ndarray | Unreadable:
    try:
        mask_HW = decode_masks([row["mask"]])[0]
    except ValueError as error:
        return Unreadable("bad_mask", f"pair {row['pair_id']}: {error}")
    return mask_HW if mask_HW.any() else Unreadable("bad_mask", f"pair {row['pair_id']}: the mask is empty")
