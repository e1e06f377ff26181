"""PAIRS: the training set, one row a (masked region, noun) pair."""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.masks import IMAGE_PHASH, MASK_CHECKS, PHASH_CHECK, is_share
from schemas.table import BOX_XYWH, RLE, SCORED_MASK, SCORED_NOUN, ValueCheck, column, table

PAIRS = table(
    "pairs",
    2,
    "one masked region and one noun that CLIP matched to it; rows are sorted by image_id, caption_index, start_char, "
    "mask_rank",
    [
        column("pair_id", pa.string(), "content hash of image bytes, mask and noun, 32 hex digits"),
        column("image_id", pa.string(), "the image's key in every table"),
        column("image_uri", pa.string(), "where the image's bytes were read"),
        column("image_sha256", pa.string(), "sha256 of those bytes, in hex"),
        column("image_phash", pa.string(), IMAGE_PHASH),
        column("height", pa.int32(), "image height after EXIF orientation", unit="px"),
        column("width", pa.int32(), "image width after EXIF orientation", unit="px"),
        column("mask_index", pa.int32(), "which of the image's masks in MASKS"),
        column("mask", RLE, "binary mask as COCO RLE: size [height, width], compressed counts"),
        column("box_xywh_px", BOX_XYWH, "tight box of the mask: x, y, width, height", unit="px"),
        column("area_px", pa.int32(), "pixels of the mask", unit="px"),
        column("noun", pa.string(), "the string CLIP read"),
        column("lemma", pa.string(), "noun with its head in the singular"),
        column(
            "caption_index", pa.int32(), "the caption that names the noun (the first of the image's, if several do)"
        ),
        column("caption", pa.string(), "the text of that caption"),
        column("start_char", pa.int32(), "first character of the noun in the caption", unit="characters"),
        column("end_char", pa.int32(), "one past its last character", unit="characters"),
        column("cosine", pa.float32(), "cosine of the masked region's and the prompted noun's embeddings, -1 to 1"),
        column(
            "probability",
            pa.float32(),
            "softmax of 100·cosine over the image's nouns for this mask, 0 to 1",
        ),
        column("mask_rank", pa.int32(), "rank of this mask among the image's masks for this noun, 1 = best"),
        column("noun_rank", pa.int32(), "rank of this noun among the image's nouns for this mask, 1 = best"),
        column(
            "margin",
            pa.float32(),
            "cosine minus that of the noun's next best mask; null when the image has no other",
            nullable=True,
        ),
        column(
            "runner_up_nouns",
            pa.list_(pa.field("element", SCORED_NOUN, nullable=False)),
            "the image's other nouns that score highest on this mask, best first",
        ),
        column(
            "runner_up_masks",
            pa.list_(pa.field("element", SCORED_MASK, nullable=False)),
            "the image's next best masks for this noun, best first, with all that this row would say of them",
        ),
        column(
            "hard_negatives",
            pa.list_(pa.field("element", pa.string(), nullable=False)),
            "nouns that this image's captions lack and CLIP ranks high; null when they were not mined",
            nullable=True,
        ),
        column("abstract", pa.bool_(), "as in NOUNS"),
        column("generic", pa.bool_(), "as in NOUNS"),
        column("meaningless", pa.bool_(), "the scorer's weights are random: for plumbing, never for training"),
        column("generator", pa.string(), "name of the mask generator"),
        column("scorer", pa.string(), "name of the CLIP model that matched"),
        column("source_url", pa.string(), "as in CAPTIONS", nullable=True),
        column("licence", pa.string(), "as in CAPTIONS", nullable=True),
        column("safety", pa.string(), "the image's safety flag, of the input or of a plug-in", nullable=True),
        column(
            "crop_png",
            pa.binary(),
            "the image inside the mask's box, RGB, unmasked, as PNG; null unless crops were asked for",
            nullable=True,
        ),
    ],
    (
        *MASK_CHECKS,
        PHASH_CHECK,
        ValueCheck("cosine", "a number from -1 to 1", lambda rows: pc.less_equal(pc.abs(rows["cosine"]), 1.0001)),
        ValueCheck("probability", "a share from 0 to 1", is_share("probability")),
        ValueCheck("end_char", "more than start_char", lambda rows: pc.greater(rows["end_char"], rows["start_char"])),
        ValueCheck("noun", "at least one character", lambda rows: pc.greater(pc.utf8_length(rows["noun"]), 0)),
        ValueCheck(
            "pair_id", "32 hex digits", lambda rows: pc.match_substring_regex(rows["pair_id"], "^[0-9a-f]{32}$")
        ),
        ValueCheck("mask_rank", "1 or more", lambda rows: pc.greater(rows["mask_rank"], 0)),
        ValueCheck("noun_rank", "1 or more", lambda rows: pc.greater(rows["noun_rank"], 0)),
        ValueCheck("margin", "0 or more", lambda rows: pc.greater_equal(rows["margin"], 0)),
    ),
)
