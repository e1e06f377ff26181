"""MASKS: class-agnostic mask proposals, the expensive table that other captions reuse; one row a mask."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import BOX_XYWH, RLE, Check, ValueCheck, column, table


def mask_size_is_image_size(rows: pa.Table) -> pa.Array:
    """Whether each row's mask has its image's (height, width)."""
    size = pc.list_flatten(pc.struct_field(rows["mask"], "size")).to_numpy().reshape(-1, 2)
    return pa.array((size[:, 0] == rows["height"].to_numpy()) & (size[:, 1] == rows["width"].to_numpy()))


def box_is_inside_image(rows: pa.Table) -> pa.Array:
    """Whether each row's box has an area and lies inside its image."""
    x, y, w, h = pc.list_flatten(rows["box_xywh_px"]).to_numpy().reshape(-1, 4).T
    inside = (x >= 0) & (y >= 0) & (x + w <= rows["width"].to_numpy()) & (y + h <= rows["height"].to_numpy())
    return pa.array(np.asarray(inside & (w > 0) & (h > 0)))


def mask_has_counts(rows: pa.Table) -> pa.Array:
    """Whether each row's mask has a counts string."""
    return pc.fill_null(pc.greater(pc.utf8_length(pc.struct_field(rows["mask"], "counts")), 0), False)


def area_fits_box(rows: pa.Table) -> pa.Array:
    """Whether each row's area is that of a pixel at least and of its tight box at most; a mask may have gaps."""
    _, _, w, h = pc.list_flatten(rows["box_xywh_px"]).to_numpy().reshape(-1, 4).T
    area = rows["area_px"].to_numpy()
    return pa.array((area >= 1) & (area <= w.astype(np.int64) * h))


def keys_ascend(rows: pa.Table) -> pa.Array:
    """Whether each row comes after the one before it: by image_id, then mask_index."""
    ids, indices = rows["image_id"].combine_chunks(), rows["mask_index"].combine_chunks()
    same = pc.equal(ids[1:], ids[:-1])
    after = pc.if_else(same, pc.greater(indices[1:], indices[:-1]), pc.greater(ids[1:], ids[:-1]))
    return pa.concat_arrays([pa.array([True]), after])


def is_share(column_name: str) -> Check:
    """Whether each value of a column is from 0 to 1, or null."""
    return lambda rows: pc.and_(pc.greater_equal(rows[column_name], 0), pc.less_equal(rows[column_name], 1))


MASK_CHECKS = (
    ValueCheck("mask", "size (height, width) of the image; masks are stored as (H, W)", mask_size_is_image_size),
    ValueCheck("mask", "compressed RLE counts", mask_has_counts),
    ValueCheck("box_xywh_px", "a box with an area, inside the image", box_is_inside_image),
    ValueCheck("area_px", "a pixel or more, no more than the tight box", area_fits_box),
)
"""What holds wherever a mask stands: in MASKS and in PAIRS."""

IMAGE_PHASH = "perceptual hash of the image, 64 bits in hex: near-identical images differ in few bits"

PHASH_CHECK = ValueCheck(
    "image_phash", "16 hex digits", lambda rows: pc.match_substring_regex(rows["image_phash"], "^[0-9a-f]{16}$")
)

MASKS = table(
    "masks",
    2,
    "one mask proposal of one image; rows are sorted by image_id, then mask_index",
    [
        column("image_id", pa.string(), "the image's key in every table"),
        column("image_uri", pa.string(), "where the image's bytes were read"),
        column("image_sha256", pa.string(), "sha256 of those bytes, in hex"),
        column("image_phash", pa.string(), IMAGE_PHASH),
        column("height", pa.int32(), "image height after EXIF orientation", unit="px"),
        column("width", pa.int32(), "image width after EXIF orientation", unit="px"),
        column("mask_index", pa.int32(), "position among the masks of its image, from 0, in the generator's order"),
        column("mask", RLE, "binary mask as COCO RLE: size [height, width], compressed counts"),
        column("box_xywh_px", BOX_XYWH, "tight box of the mask: x, y, width, height", unit="px"),
        column("area_px", pa.int32(), "pixels of the mask", unit="px"),
        column("predicted_iou", pa.float32(), "the generator's own quality estimate, 0 to 1", nullable=True),
        column(
            "stability",
            pa.float32(),
            "mask IoU of the mask with itself under another threshold or scale, 0 to 1",
            nullable=True,
        ),
        column("generator", pa.string(), "name of the mask generator"),
    ],
    (
        *MASK_CHECKS,
        PHASH_CHECK,
        ValueCheck("mask_index", "0 or more", lambda rows: pc.greater_equal(rows["mask_index"], 0)),
        ValueCheck("mask_index", "rows sorted by image_id, then mask_index, each once", keys_ascend),
        ValueCheck("predicted_iou", "a share from 0 to 1", is_share("predicted_iou")),
        ValueCheck("stability", "a share from 0 to 1", is_share("stability")),
    ),
)
