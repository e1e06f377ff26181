"""VOCABULARY: how often each noun was named and paired, one row a noun."""

import pyarrow as pa
import pyarrow.compute as pc

from schemas.table import ValueCheck, column, table

VOCABULARY = table(
    "vocabulary",
    1,
    "one noun of the whole run; rows are sorted by captions, most first, then by noun",
    [
        column("noun", pa.string(), "the string CLIP reads"),
        column("captions", pa.int64(), "captions that name it"),
        column("images", pa.int64(), "images whose captions name it"),
        column("pairs", pa.int64(), "rows of PAIRS with it, before any cap"),
        column("pairs_kept", pa.int64(), "rows of PAIRS with it after the cap; equal to pairs when there was none"),
    ],
    (ValueCheck("pairs_kept", "no more than pairs", lambda rows: pc.less_equal(rows["pairs_kept"], rows["pairs"])),),
)
