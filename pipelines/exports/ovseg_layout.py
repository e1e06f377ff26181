"""`--format ovseg`: filled regions as PNG in a folder, and a table of tabs that names them, for OVSeg's own trainer.

What is known of that layout: a text file ending in .csv whose separator is a tab, with a header and the columns
`filepath` (relative) and `title`; beside it a folder of images, each one region that is cut and filled already. There
is no mask file: the trainer takes for background what has exactly the colour (124, 116, 103). docs/exports.md says what
is not known, and what was chosen here.
"""

from __future__ import annotations

import csv
import os
from typing import TextIO

import numpy as np

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.pair_reader import Picture, Row, Unreadable
from pipelines.exports.export_options import ExportOptions
from pipelines.exports.region_pictures import make_of_regions, png_bytes
from pipelines.exports.selected_pairs import ROWS_PER_PICTURE, SelectedPairs

TABLE_FILE = "ovseg_pairs.csv"
IMAGE_FOLDER = "ovseg_pairs"

FILL_RGB = (124, 116, 103)
"""What OVSeg's trainer takes for background: the rounded mean of ImageNet."""

KEY_COLUMN, CAPTION_COLUMN = "filepath", "title"


def write_pairs(pairs: SelectedPairs, folder: str, options: ExportOptions, fetch: FetchOptions) -> None:
    """Writes ovseg_pairs.csv and ovseg_pairs/AB/PAIR_ID.png, AB being the first two digits of the pair_id.

    Raises:
        UserError: a part of the run cannot be read.
    """
    os.makedirs(f"{folder}/{IMAGE_FOLDER}")
    with open(f"{folder}/{TABLE_FILE}", "w", encoding="utf-8", newline="") as file:
        write_table(pairs, folder, options, fetch, file)


def write_table(pairs: SelectedPairs, folder: str, options: ExportOptions, fetch: FetchOptions, file: TextIO) -> None:
    """Writes the header, and a line and an image a pair."""
    table = csv.writer(file, delimiter="\t", lineterminator="\n")
    table.writerow([KEY_COLUMN, CAPTION_COLUMN])
    for batch in pairs.batches(ROWS_PER_PICTURE):
        rows = batch.to_pylist()
        # Compressing takes most of the time: it belongs to what the threads do.
        made = make_of_regions(rows, fetch, lambda _, picture: png_bytes(filled_region(picture, options.side)))
        pairs.keep_readable(batch, made)
        for row, png in zip(rows, made, strict=True):
            if not isinstance(png, Unreadable):
                table.writerow([write_image(row, png, folder), title_of(row, options.title)])


def write_image(row: Row, data: bytes, folder: str) -> str:
    """Writes a region under its pair_id; returns its path from the table."""
    name = f"{IMAGE_FOLDER}/{row['pair_id'][:2]}/{row['pair_id']}.png"
    os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
    with open(f"{folder}/{name}", "wb") as file:
        file.write(data)
    return name


def title_of(row: Row, title: str) -> str:
    """The text of a pair, on one line and without tabs: whatever reads the table, a line stays a row."""
    noun = "".join(each if each.isprintable() else " " for each in row["noun"])
    return title.replace("{}", " ".join(noun.split()))


def filled_region(picture: Picture, side: int) -> np.ndarray:
    """The region with the fill around it, stretched to a square unless `side` is 0, uint8 (h, w, 3).

    No pixel of the mask has the colour of the fill, so that the trainer finds them all: one that has it gets its blue a
    level higher. A stretched region's edge is blurred, and what is blurred counts as the mask, as OVSeg's own does.
    """
    from ovseg_model.regions import covering_mask, cut_region, resize_region

    height, width = picture.mask_HW.shape
    region_3hw = cut_region(picture.image_HW3, picture.mask_HW, (0, 0, width, height), FILL_RGB)
    mask_HW = picture.mask_HW
    if side:
        region_3hw, mask_HW = resize_region(region_3hw, side, True), covering_mask(mask_HW, side).numpy()
    filled = np.ascontiguousarray(region_3hw.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    filled[mask_HW & has_colour(filled, FILL_RGB)] = (*FILL_RGB[:2], FILL_RGB[2] + 1)
    return filled


def has_colour(image_HW3: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """Where an image has exactly this colour, bool (H, W); image_HW3: uint8."""
    # Channel by channel: numpy's `all` over a last axis of three takes several times as long.
    red_HW, green_HW, blue_HW = (image_HW3[:, :, channel] == value for channel, value in enumerate(rgb))
    return red_HW & green_HW & blue_HW
