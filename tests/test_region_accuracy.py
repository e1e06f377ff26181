"""Counts of recognised regions, by hand."""

import math

import numpy as np

from ovseg_model.region_accuracy import RegionCounts, count_regions


def counts_of(cosine, truth):
    return count_regions(np.array(cosine), np.array(truth))


def test_top1_top5_and_mean_class_by_hand():
    # Seven classes. Class 0 has two regions: one best, one sixth; class 6 has one, second.
    cosine = [
        [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        [0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.0],
        [0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.8],
    ]
    counts = counts_of(cosine, [0, 0, 6])
    assert counts.regions_K.tolist() == [2, 0, 0, 0, 0, 0, 1]
    assert (counts.top1, counts.top5) == (1 / 3, 2 / 3)
    assert counts.mean_class == (1 / 2 + 0) / 2
    assert counts.mean_over(np.array([0, 3])) == 1 / 2


def test_a_tie_goes_to_the_lower_class():
    assert counts_of([[0.5, 0.5]], [0]).top1 == 1
    assert counts_of([[0.5, 0.5]], [1]).top1 == 0


def test_any_split_adds_up_to_the_whole():
    randoms = np.random.default_rng(0)
    cosine, truth = randoms.random((50, 9)), randoms.integers(0, 9, 50)
    whole = count_regions(cosine, truth)
    parts = [count_regions(cosine[start : start + 7], truth[start : start + 7]) for start in range(0, 50, 7)]
    total = sum(parts, RegionCounts.zero(9))
    for name in ("regions_K", "top1_K", "top5_K"):
        assert (getattr(total, name) == getattr(whole, name)).all()
    assert whole.top1 == (cosine.argmax(axis=1) == truth).mean()


def test_nothing_is_not_a_number():
    nothing = counts_of(np.zeros((0, 3)), np.zeros(0, int))
    assert math.isnan(nothing.top1)
    assert math.isnan(nothing.mean_class)
