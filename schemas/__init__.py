"""The Parquet contract between the miner and the model: six tables and ``run.json``.

One file a table; `conform` checks every read and every write. Needs pyarrow only and imports nothing of ours
from outside this package.
"""

from schemas.captions import CAPTIONS
from schemas.conform import SchemaError, conform, conform_columns, conform_rows
from schemas.drops import DROPS
from schemas.errors import UserError
from schemas.masks import MASKS
from schemas.nouns import NOUNS
from schemas.pairs import PAIRS
from schemas.vocabulary import VOCABULARY

TABLES = {table.name: table for table in (CAPTIONS, NOUNS, MASKS, PAIRS, VOCABULARY, DROPS)}
"""Every table by its name, which is also its folder in a run."""

__all__ = [
    "CAPTIONS",
    "DROPS",
    "MASKS",
    "NOUNS",
    "PAIRS",
    "TABLES",
    "VOCABULARY",
    "SchemaError",
    "UserError",
    "conform",
    "conform_columns",
    "conform_rows",
]
