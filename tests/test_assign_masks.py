"""One noun a mask and one mask a noun, by tables worked out by hand."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from cosine_tables import rows_of_table

from ovseg_model.pair_filter import parse_filter
from pipelines.assign_masks import Candidates, assign_masks, greedy, hungarian
from pipelines.match_regions import pair_id
from schemas import DROPS, PAIRS, conform

DOG_CAT = [[0.9, 0.8, 0.1], [0.8, 0.1, 0.2]]
"""Both want mask 0. Greedy: dog 0, cat 2, in all 1.1. The best sum: dog 1, cat 0, in all 1.6."""


def assigned(rows, way, condition=None):
    """Masks by noun after an assignment, and the drops."""
    kept, dropped = assign_masks(rows, way, condition and parse_filter(condition, PAIRS))
    conform(kept, PAIRS)
    conform(dropped, DROPS)
    assert kept.num_rows + dropped.num_rows == rows.num_rows
    return dict(zip(kept["noun"].to_pylist(), kept["mask_index"].to_pylist(), strict=True)), dropped


@pytest.mark.parametrize(
    ("way", "wanted"), [("mutual", {"dog": 0}), ("greedy", {"dog": 0, "cat": 2}), ("hungarian", {"dog": 1, "cat": 0})]
)
def test_ways_by_hand(way, wanted):
    assert assigned(rows_of_table(DOG_CAT, ["dog", "cat"]), way)[0] == wanted


def test_the_largest_sum_is_larger_than_greedys():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"])
    sums = {way: sum(assign_masks(rows, way).kept["cosine"].to_pylist()) for way in ("greedy", "hungarian")}
    assert sums == {"greedy": pytest.approx(1.1), "hungarian": pytest.approx(1.6)}


def test_a_moved_row_is_what_the_miner_would_have_said_of_its_mask():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"])
    every = rows_of_table(DOG_CAT, ["dog", "cat"], masks_per_noun=3).to_pylist()
    (mined,) = (row for row in every if row["noun"] == "dog" and row["mask_index"] == 1)
    moved = assign_masks(rows, "hungarian").kept.to_pylist()[0]
    assert moved["mask_rank"] == 2
    assert moved["pair_id"] == pair_id(moved["image_sha256"], moved["mask"], "dog")
    assert [mask["mask_index"] for mask in moved["runner_up_masks"]] == [0, 2]
    assert moved | {"runner_up_masks": None} == mined | {"runner_up_masks": None}
    assert moved["runner_up_masks"][0] == {name: every[0][name] for name in moved["runner_up_masks"][0]}


def test_a_row_that_keeps_its_mask_keeps_all():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"])
    assert assign_masks(rows, "greedy").kept.slice(0, 1).equals(rows.slice(0, 1))


def test_a_moved_row_loses_its_crop():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"], crop_png=b"of mask 0")
    kept = assign_masks(rows, "hungarian").kept
    assert kept["crop_png"].to_pylist() == [None, b"of mask 0"]


def test_assigning_twice_changes_nothing_more():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"])
    for way in ("mutual", "greedy", "hungarian"):
        once = assign_masks(rows, way).kept
        assert assign_masks(once, way).kept.equals(once)


def test_a_drop_says_who_has_the_mask():
    _, dropped = assigned(rows_of_table(DOG_CAT, ["dog", "cat"]), "mutual")
    assert dropped["reason"].to_pylist() == ["not_assigned"]
    assert dropped["detail"].to_pylist() == ["--assign mutual: its mask went to dog"]


def test_mutual_gives_a_mask_to_nobody_whose_best_noun_wants_another():
    # Mask 1 is the cat's best, and the dog scores higher on it; the dog's best is mask 0.
    masks, dropped = assigned(rows_of_table([[0.9, 0.8], [0.1, 0.7]], ["dog", "cat"]), "mutual")
    assert masks == {"dog": 0}
    assert dropped["detail"].to_pylist() == ["--assign mutual: its mask went to no noun"]


def test_nouns_that_want_different_masks_get_them():
    for way in ("greedy", "hungarian"):
        assert assigned(rows_of_table([[0.9, 0.8], [0.1, 0.7]], ["dog", "cat"]), way)[0] == {"dog": 0, "cat": 1}


def test_more_nouns_than_masks_leave_some_without():
    rows = rows_of_table([[0.5, 0.4], [0.6, 0.1], [0.3, 0.2]], ["dog", "cat", "cow"])
    assert assigned(rows, "greedy")[0] == {"cat": 0, "dog": 1}
    assert assigned(rows, "hungarian")[0] == {"cat": 0, "dog": 1}


def test_a_mask_for_more_nouns_goes_before_the_sum():
    rows = rows_of_table([[0.9, -0.9], [0.8, -0.9]], ["dog", "cat"])
    assert assigned(rows, "hungarian")[0] == {"dog": 0, "cat": 1}


def test_only_listed_runners_up_can_be_had():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"], runner_up_masks=0)
    for way in ("mutual", "greedy", "hungarian"):
        assert assigned(rows, way)[0] == {"dog": 0}


def test_a_runner_up_that_fails_the_condition_cannot_be_had():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"])
    assert assigned(rows, "greedy", "cosine > 0.15")[0] == {"dog": 0, "cat": 2}
    assert assigned(rows, "greedy", "cosine > 0.25")[0] == {"dog": 0}
    assert assigned(rows, "hungarian", "mask_rank == 1 and runner_up_masks is not null")[0] == {"dog": 0}


def test_several_rows_of_a_noun_are_candidates():
    rows = rows_of_table(DOG_CAT, ["dog", "cat"], masks_per_noun=2, runner_up_masks=1)
    assert rows.num_rows == 4
    kept = assign_masks(rows, "hungarian").kept
    wanted = rows.filter(pa.compute.is_in(rows["mask_index"], pa.array([0, 1]))).to_pylist()
    assert kept.to_pylist() == [wanted[1], wanted[2]]  # the dog's row of mask 1, the cat's of mask 0
    assert assigned(rows, "mutual")[0] == {"dog": 0}


def test_images_do_not_compete():
    rows = pa.concat_tables(
        [rows_of_table(DOG_CAT, ["dog", "cat"]), rows_of_table([[0.2, 0.9, 0.8]], ["dog"], image_id="b")]
    )
    kept = assign_masks(rows, "hungarian").kept
    assert list(zip(kept["image_id"].to_pylist(), kept["mask_index"].to_pylist(), strict=True)) == [
        ("a", 1),
        ("a", 0),
        ("b", 1),
    ]


def test_ties_are_settled_by_noun_not_by_row():
    rows = rows_of_table([[0.5, 0.1], [0.5, 0.1]], ["dog", "cat"])
    for order in ([0, 1], [1, 0]):
        assert assigned(rows.take(order), "greedy")[0] == {"cat": 0, "dog": 1}
        assert assigned(rows.take(order), "mutual")[0] == {"cat": 0}


def test_no_rows_are_no_mistake():
    empty = rows_of_table(DOG_CAT, ["dog", "cat"]).slice(0, 0)
    for way in ("mutual", "greedy", "hungarian"):
        assert assigned(empty, way, "cosine > 0")[0] == {}


@pytest.mark.parametrize("seed", range(5))
def test_no_other_assignment_sums_to_more(seed):
    gain_NM = np.random.default_rng(seed).uniform(-0.2, 0.4, (3, 4)).astype(np.float32)
    order = np.argsort(-gain_NM, axis=None, kind="stable")
    noun_E, mask_E = np.unravel_index(order, gain_NM.shape)
    candidates = Candidates(noun_E, mask_E, np.zeros(12, int), noun_E, mask_E, gain_NM.ravel()[order])
    best = max(sum(gain_NM[n, m] for n, m in enumerate(masks)) for masks in itertools.permutations(range(4), 3))
    chosen = candidates.take(hungarian(candidates))
    assert len(set(chosen.noun_E)) == len(set(chosen.mask_E)) == 3
    assert chosen.cosine_E.sum() == pytest.approx(best)
    assert candidates.cosine_E[greedy(candidates)].sum() <= best + 1e-6


@pytest.mark.parametrize("way", ["greedy", "hungarian"])
def test_images_together_are_what_each_is_alone(way):
    randoms = np.random.default_rng(0)
    images = [
        rows_of_table(
            randoms.uniform(-0.2, 0.4, (count, width)), [f"noun {n}" for n in range(count)], f"{count} {width}"
        )
        for count, width in itertools.product((1, 2, 4), (1, 3, 5))
    ]
    together = assign_masks(pa.concat_tables(images), way)
    alone = [assign_masks(rows, way) for rows in images]
    assert together.kept.equals(pa.concat_tables([each.kept for each in alone]))
    assert together.dropped.equals(pa.concat_tables([each.dropped for each in alone]))
