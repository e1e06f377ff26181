"""VOCABULARY of a filtered run: captions and images as its source has them, pairs before and after the cap."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.derived_run import Source, read_source_part
from pipelines.manifest import count_distinct, vocabulary_rows
from pipelines.units import part_name
from schemas import VOCABULARY, conform_rows


@dataclass
class NounCounts:
    """Pairs by noun as they were read, as selected before the cap, and as kept; memory grows with nouns only.

    `with_captions`: captions and images that name a noun are counted too, as far as PAIRS knows them.
    """

    with_captions: bool
    read: Counter[str] = field(default_factory=Counter)
    selected: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)

    def add(self, read: pa.Table, selected: pa.Table, kept: pa.Table) -> None:
        """Counts the rows of one unit, all of its images, at each of the three."""
        for counter, rows in ((self.read, read), (self.selected, selected), (self.kept, kept)):
            counter.update(pairs_by_noun(rows))
        if self.with_captions:
            self.captions.update(count_distinct(read, ["noun", "image_id", "caption_index"]))
            self.images.update(count_distinct(read, ["noun", "image_id"]))


def pairs_by_noun(rows: pa.Table) -> dict[str, int]:
    """Rows of each noun."""
    counts = pc.value_counts(rows["noun"].combine_chunks())
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def filtered_vocabulary(source: Source, counts: NounCounts) -> pa.Table:
    """The VOCABULARY rows: every noun that the source has, with pairs or without."""
    captions, images = counts.captions, counts.images
    if not counts.with_captions:
        before = read_source_part(source, part_name("vocabulary", 0))
        nouns = before["noun"].to_pylist()
        captions, images = (
            Counter(dict(zip(nouns, before[name].to_pylist(), strict=True))) for name in ("captions", "images")
        )
    rows = vocabulary_rows(captions, images, counts.selected, counts.kept)
    return conform_rows(list(rows), VOCABULARY)
