"""Accuracy by group, by hand."""

import json
import math

import numpy as np
import pytest

from ovseg_model.group_metrics import GroupCounts, count_groups


def groups(samples, correct):
    return GroupCounts(np.array(samples), np.array(correct))


def counted(predicted, truth, background):
    return count_groups(*(np.array(each, int) for each in (predicted, truth, background)), 2, 2)


FOUR = groups([[100, 100], [50, 50]], [[90, 60], [20, 45]])
"""Land birds on land and on water, water birds on land and on water: 0.9, 0.6, 0.4, 0.9."""


def test_the_two_averages_and_the_worst_group():
    assert FOUR.sample_mean == (90 + 60 + 20 + 45) / 300
    # Waterbirds' training set: 3498, 184, 56, 1057 images.
    train = np.array([[3498, 184], [56, 1057]])
    wanted = (3498 * 0.9 + 184 * 0.6 + 56 * 0.4 + 1057 * 0.9) / 4795
    assert FOUR.weighted_mean(train) == pytest.approx(wanted)
    assert FOUR.weighted_mean(train / 4795) == pytest.approx(wanted)
    assert (FOUR.worst, FOUR.worst_group) == (0.4, (1, 0))
    assert FOUR.empty_groups == ()


def test_samples_are_counted_by_what_is_true_of_them():
    counts = counted(predicted=[0, 1, 1, 0], truth=[0, 0, 1, 1], background=[0, 0, 1, 1])
    assert counts.samples_LB.tolist() == [[2, 0], [0, 2]]
    assert counts.correct_LB.tolist() == [[1, 0], [0, 1]]


def test_an_empty_group_is_named_and_never_the_worst():
    counts = groups([[10, 0], [4, 2]], [[9, 0], [2, 2]])
    assert counts.empty_groups == ((0, 1),)
    assert math.isnan(counts.group_accuracy()[0, 1])
    assert (counts.worst, counts.worst_group) == (1 / 2, (1, 0))
    assert math.isnan(counts.weighted_mean(np.array([[5, 1], [1, 1]])))
    assert counts.weighted_mean(np.array([[1, 0], [1, 2]])) == pytest.approx((0.9 + 0.5 + 2 * 1) / 4)


def test_no_samples_have_no_result():
    nothing = counted([], [], [])
    assert all(map(math.isnan, (nothing.sample_mean, nothing.worst, nothing.weighted_mean(np.ones((2, 2))))))
    assert nothing.worst_group is None
    assert math.isnan(FOUR.weighted_mean(np.zeros((2, 2))))


def test_any_split_adds_up_to_the_whole():
    predicted, truth, background = np.random.default_rng(0).integers(0, 2, (3, 50))
    whole = count_groups(predicted, truth, background, 2, 2)
    parts = [count_groups(predicted[at::4], truth[at::4], background[at::4], 2, 2) for at in range(4)]
    total = sum(parts, GroupCounts.zero(2, 2))
    assert total.as_json() == whole.as_json()
    assert whole.sample_mean == (predicted == truth).mean()


def test_counts_survive_being_stored():
    assert GroupCounts.from_json(json.loads(json.dumps(FOUR.as_json()))).as_json() == FOUR.as_json()


@pytest.mark.parametrize(
    "stored",
    [
        {"samples": [[1, 2]]},
        {"samples": [[1, 2]], "correct": [[1]]},
        {"samples": [[1, 2]], "correct": [[2, 0]]},
        {"samples": [[1, 2]], "correct": [[-1, 0]]},
        {"samples": [1, 2], "correct": [1, 0]},
        {"samples": None, "correct": None},
    ],
)
def test_what_cannot_have_been_stored_is_refused(stored):
    with pytest.raises(ValueError, match="stored group counts: wanted"):
        GroupCounts.from_json(stored)


def test_numbers_that_are_no_group_are_refused():
    with pytest.raises(ValueError, match="background: wanted 0 to 1, got 0 to 2"):
        counted([0, 0], [0, 0], [0, 2])
    with pytest.raises(ValueError, match="truth: wanted 0 to 1, got -1 to 0"):
        counted([0, 0], [0, -1], [0, 1])
    with pytest.raises(ValueError, match="one number a sample each"):
        counted([0], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="in both, got"):
        FOUR + GroupCounts.zero(3, 2)
    with pytest.raises(ValueError, match=r"training groups: wanted \(2, 2\), none negative"):
        FOUR.weighted_mean(np.array([1.0, 2.0]))
