"""IMAGE_HASHES: which images a set has, by their bytes and by their looks; a file beside runs, no table of one."""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.masks import IMAGE_PHASH, PHASH_CHECK
from schemas.table import ValueCheck, column, table

IMAGE_HASHES = table(
    "image_hashes",
    1,
    "one image of a set; rows are sorted by file_name",
    [
        column("set_name", pa.string(), "what the set is called, as in ade20k-val"),
        column("file_name", pa.string(), "the image's path below the folder that holds all of the set"),
        column("image_sha256", pa.string(), "sha256 of the file's bytes, in hex"),
        column("image_phash", pa.string(), IMAGE_PHASH),
    ],
    (
        ValueCheck("set_name", "at least one character", lambda rows: pc.greater(pc.utf8_length(rows["set_name"]), 0)),
        ValueCheck(
            "image_sha256",
            "64 hex digits",
            lambda rows: pc.match_substring_regex(rows["image_sha256"], "^[0-9a-f]{64}$"),
        ),
        PHASH_CHECK,
    ),
)
