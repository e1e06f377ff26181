"""One-to-one between the nouns and the masks of an image: mutual best, greedy, or the assignment of largest sum.

A candidate is a row of PAIRS or one of its runner-up masks. A noun that is given a runner-up becomes a row of it.
Array names end in their axis: N rows, F runner-up masks of all rows, E candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_model.pair_filter import RowFilter
from pipelines.match_regions import pair_id
from pipelines.noun_cap import place_in_group
from pipelines.selection import Selection, drop_rows, first_failing
from schemas import PAIRS
from schemas.table import SCORED_MASK

OWN = -1
"""The choice that is the row's own mask; others are places in its runner_up_masks."""

ASSIGN_COLUMNS = tuple(name for name in PAIRS.schema.names if name not in ("crop_png", "caption", "hard_negatives"))
"""What assigning reads and rewrites."""

FROM_CANDIDATE = tuple(SCORED_MASK.field(index).name for index in range(SCORED_MASK.num_fields))
"""Columns that a row takes over from a runner-up."""


class Candidates(NamedTuple):
    """Masks that nouns can be given, each noun and mask once, by image, then falling cosine, noun and mask.

    row_E: the row it comes from; choice_E: OWN or a place in runner_up_masks; image_E, noun_E, mask_E: numbers that
    tell images, nouns of an image, and masks of an image apart and sort as they do; all int64. cosine_E: float32.
    """

    row_E: np.ndarray
    choice_E: np.ndarray
    image_E: np.ndarray
    noun_E: np.ndarray
    mask_E: np.ndarray
    cosine_E: np.ndarray

    def take(self, indices: np.ndarray) -> Candidates:
        """Some of them, in the order of `indices`, or where a bool array says so."""
        return Candidates(*(array[indices] for array in self))


class RunnersUp(NamedTuple):
    """All runner-up masks of a table: masks (SCORED_MASK, F), their row and place in it, and mask_rank, int64."""

    masks: pa.StructArray
    row_F: np.ndarray
    place_F: np.ndarray
    rank_F: np.ndarray


def assign_masks(
    rows: pa.Table, way: str, row_filter: RowFilter | None = None, gone: pa.Table | None = None
) -> Selection:
    """Gives every noun of an image at most one mask, and every mask at most one noun.

    Args:
        rows: PAIRS, or ASSIGN_COLUMNS of it; the rows of an image stand together.
        way: mutual, greedy or hungarian (see WAYS).
        row_filter: a runner-up that does not hold it is no candidate.
        gone: rows that were dropped before; a runner-up that is one of them, noun and mask, is no candidate.
    """
    runners = runners_up(rows)
    may_F = may_be_had(rows, runners, row_filter)
    if gone is not None and gone.num_rows:
        may_F &= ~are_among(rows, runners, gone)
    candidates = candidates_of(rows, runners, may_F)
    chosen = candidates.take(WAYS[way](candidates))
    kept = assigned_rows(rows, runners, chosen)
    lost_N = np.ones(rows.num_rows, bool)
    lost_N[chosen.row_E] = False
    lost = rows.filter(pa.array(lost_N))
    return Selection(kept, drop_rows(lost, "not_assigned", reasons_of(rows, lost_N, candidates, chosen, way)))


# Candidates.


def runners_up(rows: pa.Table) -> RunnersUp:
    """The runner-up masks of all rows, with their ranks among their image's masks for the noun."""
    lists = rows["runner_up_masks"].combine_chunks()
    row_F = pc.list_parent_indices(lists).to_numpy()
    masks = pc.list_flatten(lists)
    own_N, cosine_F = np.arange(rows.num_rows), masks.field("cosine").to_numpy()
    # A row and its runners-up have neighbouring ranks; of a row that was assigned before, some are better than it.
    row = np.concatenate([own_N, row_F])
    cosine = np.concatenate([rows["cosine"].to_numpy(), cosine_F])
    index = np.concatenate([rows["mask_index"].to_numpy(), masks.field("mask_index").to_numpy()])
    order = np.lexsort((index, -cosine, row))
    place = np.empty(len(order), np.int64)
    place[order] = place_in_group(row[order])
    best_N = rows["mask_rank"].to_numpy() - place[: len(own_N)]
    return RunnersUp(masks, row_F, place_in_group(row_F), best_N[row_F] + place[len(own_N) :])


def may_be_had(rows: pa.Table, runners: RunnersUp, row_filter: RowFilter | None) -> np.ndarray:
    """Which runners-up hold the condition, bool (F,)."""
    every_F = np.ones(len(runners.row_F), bool)
    if not row_filter or not len(every_F):
        return every_F
    return first_failing(moved_rows(rows, runners, every_F, row_filter.columns), row_filter) < 0


def are_among(rows: pa.Table, runners: RunnersUp, others: pa.Table) -> np.ndarray:
    """Which runners-up are rows of another table (of PAIRS), noun and mask, bool (F,)."""
    both = pa.concat_tables([table.select(["image_id", "noun"]) for table in (rows, others)])
    image, noun = codes_of(both["image_id"]), codes_of(both["noun"])
    noun_in_image = image * (noun.max(initial=0) + 1) + noun
    nouns = np.concatenate([noun_in_image[runners.row_F], noun_in_image[rows.num_rows :]])
    masks = np.concatenate([runners.masks.field("mask_index").to_numpy(), others["mask_index"].to_numpy()])
    keys = nouns * (int(masks.max(initial=0)) + 1) + masks
    return np.isin(keys[: len(runners.row_F)], keys[len(runners.row_F) :])


def candidates_of(rows: pa.Table, runners: RunnersUp, may_F: np.ndarray) -> Candidates:
    """Every mask that a noun can be given: its rows', and those of their runners-up that may be had (bool, F)."""
    row = np.concatenate([np.arange(rows.num_rows), runners.row_F[may_F]])
    own = np.full(rows.num_rows, OWN)
    index = np.concatenate([rows["mask_index"].to_numpy(), runners.masks.field("mask_index").to_numpy()[may_F]])
    image, noun = codes_of(rows["image_id"])[row], codes_of(rows["noun"])[row]
    every = Candidates(
        row,
        np.concatenate([own, runners.place_F[may_F]]),
        image,
        image * (noun.max(initial=0) + 1) + noun,
        image * (int(index.max(initial=0)) + 1) + index,
        np.concatenate([rows["cosine"].to_numpy(), runners.masks.field("cosine").to_numpy()[may_F]]),
    )
    return in_order(each_once(every))


def codes_of(texts: pa.ChunkedArray) -> np.ndarray:
    """A number a text, int64, that sort as the texts do."""
    encoded = texts.combine_chunks().dictionary_encode()
    ranks = pc.rank(encoded.dictionary, tiebreaker="dense").to_numpy().astype(np.int64)
    return ranks[encoded.indices.to_numpy()]


def each_once(candidates: Candidates) -> Candidates:
    """Each noun and mask once: as a row where it is one, which may have a crop, else of its first row."""
    is_runner = candidates.choice_E != OWN
    order = np.lexsort((candidates.row_E, is_runner, candidates.mask_E, candidates.noun_E))
    pairs = np.stack([candidates.noun_E[order], candidates.mask_E[order]])
    is_first = np.concatenate([[True], (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)])[: len(order)]
    return candidates.take(order[is_first])


def in_order(candidates: Candidates) -> Candidates:
    """By image, then falling cosine; ties by noun, then by mask."""
    keys = (candidates.mask_E, candidates.noun_E, -candidates.cosine_E, candidates.image_E)
    return candidates.take(np.lexsort(keys))


# The choice: candidates in order in, which of them are chosen out, bool (E,).


def mutual(candidates: Candidates) -> np.ndarray:
    """A noun is given its best mask if it is that mask's best noun, else none."""
    return firsts(candidates.noun_E) & firsts(candidates.mask_E)


def greedy(candidates: Candidates) -> np.ndarray:
    """Candidate after candidate by falling cosine, if neither its noun nor its mask is taken yet."""
    return where_contested(candidates, in_turn)


def hungarian(candidates: Candidates) -> np.ndarray:
    """Of the assignments that give the most nouns of an image a mask, the one with the largest sum of cosines."""
    return where_contested(candidates, of_largest_sum)


WAYS: dict[str, Callable[[Candidates], np.ndarray]] = {"mutual": mutual, "greedy": greedy, "hungarian": hungarian}


def firsts(keys_E: np.ndarray) -> np.ndarray:
    """Which are the first with their key, bool (E,)."""
    is_first = np.zeros(len(keys_E), bool)
    is_first[np.unique(keys_E, return_index=True)[1]] = True
    return is_first


def where_contested(candidates: Candidates, way: Callable[[Candidates], np.ndarray]) -> np.ndarray:
    """What a way chooses that takes every noun's best mask where these differ: in such images it need not be asked."""
    chosen_E = firsts(candidates.noun_E)
    conflicts = candidates.image_E[chosen_E][~firsts(candidates.mask_E[chosen_E])]
    contested_E = np.isin(candidates.image_E, conflicts)
    chosen_E[contested_E] = way(candidates.take(contested_E))
    return chosen_E


def in_turn(candidates: Candidates) -> np.ndarray:
    """`greedy`, candidate by candidate."""
    nouns, masks = set[int](), set[int]()
    chosen = []
    for noun, mask in zip(candidates.noun_E.tolist(), candidates.mask_E.tolist(), strict=True):
        chosen.append(noun not in nouns and mask not in masks)
        if chosen[-1]:
            nouns.add(noun)
            masks.add(mask)
    return np.array(chosen, bool)


def of_largest_sum(candidates: Candidates) -> np.ndarray:
    """`hungarian`, image by image; the tables of cosines of all images are filled at once, one after the other."""
    from scipy.optimize import linear_sum_assignment

    starts = np.unique(candidates.image_E, return_index=True)[1]
    of_image_E = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(candidates.image_E)))
    noun_E, nouns = numbers_in_image(candidates.noun_E, starts, of_image_E)
    mask_E, masks = numbers_in_image(candidates.mask_E, starts, of_image_E)
    ends = np.cumsum(nouns * masks)
    cell_E = (ends - nouns * masks)[of_image_E] + noun_E * masks[of_image_E] + mask_E
    # No gain in cosines, each from -1 to 1, outweighs a noun without a mask.
    gains = np.repeat(-2.0 * nouns - 2.0, nouns * masks)
    gains[cell_E] = candidates.cosine_E
    chosen = np.zeros(len(gains), bool)
    for end, count, width in zip(ends.tolist(), nouns.tolist(), masks.tolist(), strict=True):
        table = slice(end - count * width, end)
        rows, columns = linear_sum_assignment(gains[table].reshape(count, width), maximize=True)
        chosen[table].reshape(count, width)[rows, columns] = True
    return chosen[cell_E]


def numbers_in_image(keys_E: np.ndarray, starts: np.ndarray, of_image_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys that sort by image as numbers from 0 in each, which sort as they do, and how many each image has.

    starts: where each image's keys start, (I,), of which of_image_E is the number. Returns int64 (E,) and (I,).
    """
    if not len(starts):
        return keys_E, starts
    numbers_E = np.unique(keys_E, return_inverse=True)[1]
    lowest = np.minimum.reduceat(numbers_E, starts)
    return numbers_E - lowest[of_image_E], np.maximum.reduceat(numbers_E, starts) + 1 - lowest


# Rows.


def assigned_rows(rows: pa.Table, runners: RunnersUp, chosen: Candidates) -> pa.Table:
    """The rows that were given a mask, as rows of that mask, in PAIRS' order; images stay in theirs."""
    choice_N = np.full(rows.num_rows, OWN)
    choice_N[chosen.row_E] = chosen.choice_E
    moves_F = choice_N[runners.row_F] == runners.place_F
    stay = np.sort(chosen.row_E[chosen.choice_E == OWN])
    if not moves_F.any():
        return rows.take(pa.array(stay))
    moved = moved_rows(rows, runners, moves_F, rows.column_names)
    place = rows.column_names.index("runner_up_masks")
    moved = moved.set_column(place, rows.schema.field(place), other_masks(rows, runners, moves_F))
    both = pa.concat_tables([rows.take(pa.array(stay)), moved])
    image_N = rows["image_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    place_of = np.concatenate([stay, runners.row_F[moves_F]])
    by_name = [both[name].to_numpy() for name in ("mask_rank", "start_char", "caption_index")]
    return both.take(pa.array(np.lexsort((place_of, *by_name, image_N[place_of]))))


def moved_rows(rows: pa.Table, runners: RunnersUp, which_F: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Some columns of the rows that some runners-up (bool, F) would be, but for runner_up_masks, which stay."""
    which, row = pa.array(np.flatnonzero(which_F)), pa.array(runners.row_F[which_F])
    made = {name: runners.masks.field(name).take(which) for name in columns if name in FROM_CANDIDATE}
    if "mask_rank" in columns:
        made["mask_rank"] = pa.array(runners.rank_F[which_F], pa.int32())
    if "pair_id" in columns:
        made["pair_id"] = new_pair_ids(rows, row, runners.masks.field("mask").take(which))
    if "crop_png" in columns:
        made["crop_png"] = pa.nulls(len(which), pa.binary())  # the stored crop is of the other mask
    arrays = [made[name] if name in made else rows[name].take(row) for name in columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema([rows.schema.field(name) for name in columns]))


def new_pair_ids(rows: pa.Table, row: pa.Array, masks: pa.StructArray) -> pa.Array:
    """pair_id of each mask (RLE) beside the noun of its row."""
    hashes, nouns = (rows[name].take(row).to_pylist() for name in ("image_sha256", "noun"))
    each = zip(hashes, masks.to_pylist(), nouns, strict=True)
    return pa.array([pair_id(image_sha256, mask, noun) for image_sha256, mask, noun in each], pa.string())


def other_masks(rows: pa.Table, runners: RunnersUp, which_F: np.ndarray) -> pa.Array:
    """runner_up_masks of rows that move: the mask they had and the other runners-up, best first."""
    moving = runners.row_F[which_F]
    own = pa.StructArray.from_arrays(
        [rows[name].combine_chunks().take(pa.array(moving)) for name in FROM_CANDIDATE], fields=list(SCORED_MASK)
    )
    others = np.flatnonzero(np.isin(runners.row_F, moving) & ~which_F)
    every = pa.concat_arrays([own, runners.masks.take(pa.array(others))])
    row = np.concatenate([moving, runners.row_F[others]])
    order = np.lexsort((every.field("mask_index").to_numpy(), -every.field("cosine").to_numpy(), row))
    sizes = np.bincount(np.searchsorted(moving, row), minlength=len(moving))
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    type_ = PAIRS.schema.field("runner_up_masks").type
    return pa.ListArray.from_arrays(offsets, every.take(pa.array(order)), type=type_)


def reasons_of(rows: pa.Table, lost_N: np.ndarray, every: Candidates, chosen: Candidates, way: str) -> pa.Array:
    """For each row that lost its noun's mask, in words, which noun has it now, if any."""
    own = every.choice_E == OWN
    mask_N = np.full(rows.num_rows, -1)
    mask_N[every.row_E[own]] = every.mask_E[own]
    owners = owners_of(mask_N[lost_N], chosen)
    nouns = rows["noun"].combine_chunks().take(pa.array(owners, mask=owners < 0))
    return pc.binary_join_element_wise(f"--assign {way}: its mask went to", pc.fill_null(nouns, "no noun"), " ")


def owners_of(masks: np.ndarray, chosen: Candidates) -> np.ndarray:
    """The row that each of some masks (as mask_E) was given to, -1 where it was given to none: int64, as many."""
    by_mask = np.argsort(chosen.mask_E)
    given = np.isin(masks, chosen.mask_E)
    owners = np.full(len(masks), -1)
    owners[given] = chosen.row_E[by_mask][np.searchsorted(chosen.mask_E[by_mask], masks[given])]
    return owners
