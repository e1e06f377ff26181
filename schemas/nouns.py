"""NOUNS: what could be seen according to the captions, one row a noun and place."""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import ValueCheck, column, table

NOUNS = table(
    "nouns",
    1,
    "one noun at one place of one caption; rows are sorted by image_id, caption_index, start_char",
    [
        column("image_id", pa.string(), "the image's key in every table"),
        column("caption_index", pa.int32(), "position of the caption among those of its image"),
        column("noun", pa.string(), "the string CLIP reads: lower case, a word or a phrase"),
        column("surface", pa.string(), "the same as written in the caption"),
        column("start_char", pa.int32(), "first character of the surface form in the caption", unit="characters"),
        column("end_char", pa.int32(), "one past its last character", unit="characters"),
        column("head", pa.string(), "the head noun, lower case; equal to noun for single words"),
        column("lemma", pa.string(), "noun with its head in the singular"),
        column("tag_pattern", pa.string(), "Penn Treebank tags of its words, e.g. NN or JJ NN"),
        column("abstract", pa.bool_(), "its first sense is nothing that has a region (time, act, state, …)"),
        column("generic", pa.bool_(), "it is on the list of words about pictures, not things (photo, view, top, …)"),
    ],
    (
        ValueCheck("noun", "at least one character", lambda rows: pc.greater(pc.utf8_length(rows["noun"]), 0)),
        ValueCheck("end_char", "more than start_char", lambda rows: pc.greater(rows["end_char"], rows["start_char"])),
    ),
)
