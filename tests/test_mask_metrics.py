"""Foreground masks scored, by hand."""

import json
import math

import numpy as np
import pytest

from ovseg_model.mask_metrics import THRESHOLDS, MaskCounts, count_mask, mask_counts


def mask(text):
    return np.array([[each == "#" for each in row] for row in text.split()])


def test_ciou_is_of_the_sums_and_giou_of_the_samples():
    counts = mask_counts(1, 4) + mask_counts(60, 100)
    assert counts.ciou == 61 / 104
    assert counts.giou == pytest.approx((1 / 4 + 60 / 100) / 2, abs=1e-12)
    assert [counts.precision_at(threshold) for threshold in THRESHOLDS] == [1 / 2, 1 / 2, 0, 0, 0]


def test_a_mask_is_counted_by_its_pixels():
    counts = count_mask(mask("##.. ##.."), mask(".##. ...."))
    assert (counts.samples, counts.intersection_px, counts.union_px) == (1, 1, 5)


def test_ignored_pixels_count_in_neither_mask():
    counts = count_mask(mask("##.. ##.."), mask(".##. ...."), ignore_HW=mask("..#. ##.."))
    assert (counts.intersection_px, counts.union_px) == (1, 2)


def test_an_empty_union_scores_one_and_adds_nothing_to_the_sums():
    nothing = count_mask(mask(".."), mask(".."))
    assert (nothing.giou, nothing.ciou, nothing.precision_at(0.9)) == (1, 1, 1)
    both = nothing + mask_counts(0, 8)
    assert (both.giou, both.ciou, both.precision_at(0.5)) == (1 / 2, 0, 1 / 2)


def test_a_mask_all_ignored_has_an_empty_union():
    assert count_mask(mask("##"), mask("#."), ignore_HW=mask("##")).giou == 1


def test_a_mask_where_there_is_none_scores_zero():
    assert count_mask(mask("#."), mask("..")).giou == 0


def test_an_iou_of_the_threshold_reaches_it():
    for tenths, threshold in zip(range(5, 10), THRESHOLDS, strict=True):
        assert mask_counts(tenths, 10).precision_at(threshold) == 1
        assert mask_counts(tenths * 10**6 - 1, 10**7).precision_at(threshold) == 0


def test_another_threshold_is_refused():
    with pytest.raises(ValueError, match=r"threshold: wanted one of 0\.5, 0\.6, 0\.7, 0\.8, 0\.9, got 0\.55"):
        MaskCounts().precision_at(0.55)


def test_no_samples_have_no_result():
    assert all(math.isnan(value) for value in (MaskCounts().ciou, MaskCounts().giou, MaskCounts().precision_at(0.5)))


def test_sums_are_the_same_in_any_order():
    randoms = np.random.default_rng(0)
    unions = randoms.integers(1, 300_000, 500)
    samples = [
        mask_counts(int(union * share), int(union)) for union, share in zip(unions, randoms.random(500), strict=True)
    ]
    whole = sum(samples, MaskCounts())
    workers = [sum(samples[start::3], MaskCounts()) for start in (2, 0, 1)]
    assert sum(workers, MaskCounts()) == whole
    assert whole.giou == pytest.approx(np.mean([each.intersection_px / each.union_px for each in samples]), abs=1e-11)


def test_counts_survive_being_stored():
    counts = mask_counts(1, 3) + mask_counts(9, 10)
    assert MaskCounts.from_json(json.loads(json.dumps(counts.as_json()))) == counts


@pytest.mark.parametrize("change", [{"hits": [1]}, {"samples": None}, {"more": 1}])
def test_what_cannot_have_been_stored_is_refused(change):
    with pytest.raises(ValueError, match="stored mask counts: wanted samples, intersection_px, union_px"):
        MaskCounts.from_json(mask_counts(1, 3).as_json() | change)


def test_masks_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"prediction: wanted bool \(1, 3\), got bool \(1, 2\)"):
        count_mask(mask(".."), mask("..."))
    with pytest.raises(ValueError, match=r"ignore: wanted bool \(1, 2\), got uint8 \(1, 2\)"):
        count_mask(mask(".."), mask(".."), np.zeros((1, 2), np.uint8))
    with pytest.raises(ValueError, match="wanted 0 <= intersection <= union, got 3 and 2"):
        mask_counts(3, 2)
