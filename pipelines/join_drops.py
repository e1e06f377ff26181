"""What the stages of several runs dropped → what they dropped of the union.

A stage's drop is carried along where the union has nothing of its record; where several runs dropped one record, the
drop that sorts first stays. So kept + dropped = read holds for the union, stage by stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.derived_run import totals_of
from pipelines.join_images import of_images
from pipelines.join_tables import Numbers, Tables, caption_moves
from pipelines.match_regions import noun_drop, noun_key
from pipelines.units import StepTotals, count_distinct_rows
from schemas import DROPS, conform_rows

NOUN = ("image_id", "caption_index", "start_char", "end_char", "noun")
"""What tells a row of NOUNS, and the noun of a pair."""

Drop = dict[str, Any]
"""A row of DROPS."""


class StageDrops(NamedTuple):
    """What a stage dropped of one unit's union, and its totals."""

    rows: pa.Table
    totals: StepTotals


class Unit(NamedTuple):
    """One unit of the union: each run's own rows by table and drops by stage, and what was made of the rows."""

    runs: Sequence[Tables]
    numbers: Numbers
    shared: set[str]
    joined: Tables

    def of_shared(self, table: str) -> list[dict[str, Any]]:
        """The union's rows of a table, of the images that several runs have."""
        names = [name for name in self.joined[table].column_names if name in (*NOUN, "image_id")]
        return of_images(self.joined[table], self.shared).select(names).to_pylist()

    def dropped(self, stage: str) -> Iterator[Drop]:
        """The runs' drops of a stage, of these images, their keys under the new numbers; the first in order first."""
        drops = [drop for run in self.runs for drop in self._moved(run, run[stage])]
        yield from sorted(drops, key=lambda drop: (drop["key"], drop["reason"], drop["detail"]))

    def _moved(self, run: Tables, drops: pa.Table) -> Iterator[Drop]:
        moves = caption_moves(run, self.numbers.captions) if self.numbers.captions else {}
        for row in of_images(drops, self.shared).to_pylist():
            yield {**row, "key": moved_key(row["key"], row["image_id"], moves)}


def moved_key(key: str, image_id: str, moves: dict[tuple[str, int], int]) -> str:
    """The key of a drop under the new number of its caption."""
    number, colon, place = key[len(image_id) + 1 :].partition(":")
    is_of_caption = key.startswith(f"{image_id}#") and number.isdecimal()
    new = moves.get((image_id, int(number))) if is_of_caption else None
    return key if new is None else f"{image_id}#{new}{colon}{place}"


def carried_drops(unit: Unit) -> dict[str, StageDrops]:
    """The drops and totals of every stage, of a union that has all tables."""
    return {stage: of_stage(unit) for stage, of_stage in OF_STAGES.items()}


def reading_drops(unit: Unit) -> StageDrops:
    """Rows of the input that were not read: as often as in the run that has most of the same."""
    several = [run["read_captions"] for run in unit.runs if run["read_captions"].num_rows]
    rows = several[0] if len(several) == 1 else most_of_each(several)
    kept = unit.joined["captions"].num_rows
    return StageDrops(rows, totals_of(kept + rows.num_rows, kept, rows["reason"]))


def most_of_each(tables: Sequence[pa.Table]) -> pa.Table:
    """DROPS rows, equal ones as often as in the table that has most of them."""
    most: Counter[tuple[str, ...]] = Counter()
    for table in tables:
        most |= Counter(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return conform_rows([dict(zip(DROPS.schema.names, each, strict=True)) for each in most.elements()], DROPS)


def noun_drops(unit: Unit) -> StageDrops:
    """Captions in which no run found a noun."""
    named = {f"{row['image_id']}#{row['caption_index']}" for row in unit.of_shared("nouns")}
    rows = with_those_alone(unit, "extract_nouns", first_of_each(unit.dropped("extract_nouns"), named))
    read, kept = unit.joined["captions"].num_rows, distinct(unit, "nouns", "image_id", "caption_index")
    return StageDrops(rows, totals_of(read, kept, rows["reason"]))


def mask_drops(unit: Unit) -> StageDrops:
    """Images for which no run has a mask."""
    masked = {row["image_id"] for row in unit.of_shared("masks")}
    rows = with_those_alone(unit, "propose_masks", first_of_each(unit.dropped("propose_masks"), masked))
    read, kept = distinct(unit, "captions", "image_id"), distinct(unit, "masks", "image_id")
    return StageDrops(rows, totals_of(read, kept, rows["reason"]))


def pair_drops(unit: Unit) -> StageDrops:
    """Nouns without a pair of their place; `duplicate_noun` where the image has the noun's pair from another."""
    rows = with_those_alone(unit, "match_regions", list(unpaired(unit)))
    read, kept = unit.joined["nouns"].num_rows, distinct(unit, "pairs", *NOUN)
    return StageDrops(rows, totals_of(read, kept, rows["reason"]))


def unpaired(unit: Unit) -> Iterator[Drop]:
    """A drop for each noun of a shared image that has no pair of its own."""
    pairs = unit.of_shared("pairs")
    places = {tuple(row[name] for name in NOUN) for row in pairs}
    paired_from: dict[tuple[str, str], str] = {}
    for row in pairs:
        paired_from.setdefault((row["image_id"], row["noun"]), noun_key(row))
    dropped: dict[tuple[str, str], Drop] = {}
    for drop in unit.dropped("match_regions"):
        dropped.setdefault((drop["key"], drop["detail"].partition(": ")[0]), drop)
    for row in unit.of_shared("nouns"):
        elsewhere = paired_from.get((row["image_id"], row["noun"]))
        if tuple(row[name] for name in NOUN) not in places:
            first = dropped.get((noun_key(row), row["noun"]))
            drop = noun_drop(row, "duplicate_noun", f"paired from {elsewhere}") if elsewhere else first
            yield from [drop] if drop else []


OF_STAGES: dict[str, Callable[[Unit], StageDrops]] = {
    "read_captions": reading_drops,
    "extract_nouns": noun_drops,
    "propose_masks": mask_drops,
    "match_regions": pair_drops,
}
"""What carries each stage's drops along."""


def first_of_each(drops: Iterator[Drop], kept: set[str]) -> list[Drop]:
    """The first drop of each key, without the keys of what is kept."""
    first: dict[str, Drop] = {}
    for drop in drops:
        first.setdefault(drop["key"], drop)
    return [drop for key, drop in first.items() if key not in kept]


def with_those_alone(unit: Unit, stage: str, shared: list[Drop]) -> pa.Table:
    """Drops of shared images, and those of the images that one run alone has, as they are."""
    alone = [of_images(run[stage], unit.shared, wanted=False) for run in unit.runs]
    return pa.concat_tables([*alone, conform_rows(shared, DROPS)])


def distinct(unit: Unit, table: str, *columns: str) -> int:
    """Distinct values of some columns of a table of the union."""
    return count_distinct_rows(unit.joined[table], columns)
