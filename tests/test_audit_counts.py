"""What each pair is, and sums that add."""

import numpy as np
import pytest

from ovseg_model import rle
from pipelines.audit_counts import (
    LABEL_COLUMNS,
    OUTCOMES,
    STEPS,
    ImagePairs,
    Pairs,
    cosine_step,
    count_pairs,
    find,
    no_counts,
    outcomes_of,
    size_bin,
)
from pipelines.audit_truth import truth_of_things
from pipelines.label_meaning import EQUAL, RELATED

DOG, CAT = [EQUAL, 0], [0, EQUAL]
ANIMAL, SKY = [RELATED, RELATED], [0, 0]


@pytest.mark.parametrize(
    ("meaning", "seen", "outcome"),
    [
        (DOG, 0, "equal"),
        (ANIMAL, 1, "related"),
        (DOG, 1, "wrong"),
        (DOG, -1, "unlabelled"),
        (SKY, 0, "outside"),
        (SKY, -1, "outside_unlabelled"),
        (DOG, -2, "no_truth"),
        (SKY, -2, "no_truth"),
    ],
)
def test_each_pair_is_one_thing(meaning, seen, outcome):
    assert OUTCOMES[outcomes_of(np.array([meaning], np.uint8), np.array([seen]))[0]] == outcome


def pairs(chosen=slice(None)):
    """Six pairs: right, right (related), wrong, unlabelled, outside, of no truth."""
    columns = (
        np.array(["dog", "animal", "dog", "dog", "sky", "cat"], object),
        np.array([DOG, ANIMAL, DOG, DOG, SKY, CAT], np.uint8),
        np.array([0, 1, 1, -1, 0, -2]),
        np.array([0.3, 0.25, 0.25, 0.1, 0.2, 0.9]),
        np.array([0.1, np.nan, 0.0, 0.5, 0.5, 0.5]),
        np.array([0.95, 1.0, 0.0, 0.5, 0.5, 0.5]),
        np.array([0.01, 0.5, 0.05, 0.2, 0.2, 0.2]),
    )
    return Pairs(*(column[chosen] for column in columns))


def test_the_sums_by_hand():
    counts = count_pairs(pairs())
    assert counts.outcomes_O.tolist() == [1, 1, 1, 1, 1, 0, 1]
    steps = np.flatnonzero(counts.cosine_B2[:, 0])
    assert {int(step) - STEPS: counts.cosine_B2[step].tolist() for step in steps} == {2500: [2, 1], 3000: [1, 1]}
    assert {int(step): counts.margin_B2[step].tolist() for step in np.flatnonzero(counts.margin_B2[:, 0])} == {
        0: [1, 0],
        1000: [1, 1],
    }
    assert counts.probability_P3.tolist() == [[1, 0, 0]] + [[0, 0, 0]] * 8 + [[2, 2, 1_950_000]]
    assert counts.size_S2.tolist() == [[0, 0], [1, 1], [1, 0], [1, 1]]
    assert counts.labels_K[:, :2].tolist() == [[1, 1], [2, 1]]
    assert {noun: sums.tolist() for noun, sums in counts.nouns.items()} == {
        "animal": [0, 1, 0, 0, 0, 0, 0],
        "cat": [0, 0, 0, 0, 0, 0, 1],
        "dog": [1, 0, 1, 1, 0, 0, 0],
        "sky": [0, 0, 0, 0, 1, 0, 0],
    }


def plain(counts):
    values = {name: value.tolist() for name, value in vars(counts).items() if name != "nouns"}
    return values | {"nouns": {noun: sums.tolist() for noun, sums in sorted(counts.nouns.items())}}


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_sums_of_parts_are_those_of_the_whole_in_any_order(cut):
    whole = plain(count_pairs(pairs()))
    first, second = count_pairs(pairs(slice(cut))), count_pairs(pairs(slice(cut, None)))
    assert plain(no_counts(2) + first + second) == whole
    assert plain(second + first) == whole


def test_scores_stand_on_a_grid_and_sizes_in_bins_with_their_lower_edge():
    assert cosine_step(np.array([-1, 0.29, 1.00005], np.float32)).tolist() == [0, 12900, 20000]
    assert size_bin(np.array([0.0099, 0.01, 5 / 100, 0.2, 1.0])).tolist() == [0, 1, 2, 3, 3]


def mask(columns):
    pixels = np.zeros((1, 2, 10), bool)
    pixels[0, :, columns] = True
    return rle.encode_masks(pixels)[0]


def test_what_is_found_in_an_image_by_hand():
    """Two dogs and a cat; one dog is paired well, the cat badly, and nothing names a third label."""
    truth = truth_of_things((2, 10), [0, 0, 1], [mask(slice(0, 2)), mask(slice(3, 5)), mask(slice(6, 10))], [0, 0, 0])
    given = ImagePairs(
        [mask(slice(0, 2)), mask(slice(0, 1)), mask(slice(6, 7))],
        np.array([[*DOG, 0], [*DOG, 0], [*CAT, 0]], np.uint8),
        np.array([0.2, 0.4, 0.3]),
        np.array([True, True, True]),
    )
    found = find(truth, given, 0.5)
    assert found.seen_N.tolist() == [0, 0, 1]
    assert found.steps == [STEPS + 4000, STEPS + 3000]
    rows = [dict(zip(LABEL_COLUMNS, row, strict=True)) for row in found.labels_K.tolist()]
    zero = dict.fromkeys(LABEL_COLUMNS, 0)
    once = {"images": 1, "images_named": 1, "images_found": 1}
    assert rows == [
        zero | once | {"things": 2, "things_named": 2, "things_found": 1},
        zero | once | {"things": 1, "things_named": 1},
        zero,
    ]


def test_what_no_noun_names_is_there_but_not_named():
    truth = truth_of_things((2, 10), [0], [mask(slice(0, 2))], [0])
    found = find(truth, ImagePairs([], np.zeros((0, 2), np.uint8), np.zeros(0), np.array([False, True])), 0.5)
    row = dict(zip(LABEL_COLUMNS, found.labels_K[0].tolist(), strict=True))
    assert row == dict.fromkeys(LABEL_COLUMNS, 0) | {"images": 1, "things": 1}
