"""CAPTIONS: the frozen input, one row a caption."""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import ValueCheck, column, table

CAPTIONS = table(
    "captions",
    2,
    "one caption of one image; rows are sorted by image_id, then caption_index",
    [
        column("image_id", pa.string(), "the image's key in every table"),
        column(
            "image_uri",
            pa.string(),
            "where the image's bytes are: absolute path, fsspec or http(s) URL, or shard.tar#member=…&offset=…&size=…; "
            "null when the input names no image",
            nullable=True,
        ),
        column("caption_index", pa.int32(), "position among the captions of its image, from 0"),
        column("caption", pa.string(), "the caption as given, without surrounding white space"),
        column("source_url", pa.string(), "where the image was found, when the input says so", nullable=True),
        column("licence", pa.string(), "the image's licence, when the input says so", nullable=True),
        column("safety", pa.string(), "the image's safety flag, as the input has it", nullable=True),
    ],
    (
        ValueCheck("caption", "at least one character", lambda rows: pc.greater(pc.utf8_length(rows["caption"]), 0)),
        ValueCheck("caption_index", "0 or more", lambda rows: pc.greater_equal(rows["caption_index"], 0)),
    ),
)
