"""Shares, intervals, bins and curves of an audit, worked out by hand."""

import numpy as np
import pytest

from pipelines.audit_counts import PROBABILITY_BINS, STEPS, no_counts
from pipelines.audit_report import (
    audit_markdown,
    audit_numbers,
    audit_text,
    calibration,
    curve,
    grid_bins,
    wilson_interval,
)
from pipelines.draw_audit import draw_audit

FACTS = {
    "truth": {"kind": "scenes", "source": "s"},
    "rule": "A rule.",
    "min_cover": 0.5,
    "named_by": "NOUNS",
    "meaningless": False,
}


@pytest.mark.parametrize(
    ("right", "pairs", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (81, 263, 0.25529, 0.36621)],
)
def test_wilsons_interval(right, pairs, low, high):
    """The last is Newcombe's example (1998), 0.2553 to 0.3662."""
    assert wilson_interval(right, pairs) == pytest.approx((low, high), abs=2e-5)


def test_of_nothing_everything_may_be():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def grid(rows):
    """A table by step of the cosine, from {cosine in steps: (pairs, right)}."""
    table = np.zeros((2 * STEPS + 1, 2), np.int64)
    for step, row in rows.items():
        table[STEPS + step] = row
    return table


def test_deciles_hold_about_equally_many_and_equal_scores_stay_together():
    bins = grid_bins(grid({step: (1, step % 2) for step in range(20)}), -1.0)
    assert [(each["from"], each["to"], each["pairs"], each["right"]) for each in bins] == [
        (first / STEPS, (first + 1) / STEPS, 2, 1) for first in range(0, 20, 2)
    ]
    tied = grid_bins(grid({1000: (19, 19), 2000: (1, 0)}), -1.0)
    assert [(each["from"], each["pairs"], each["precision"]) for each in tied] == [(0.1, 19, 1.0), (0.2, 1, 0.0)]
    assert grid_bins(grid({}), -1.0) == []


def test_calibration_by_hand():
    table = np.zeros((PROBABILITY_BINS, 3), np.int64)
    table[0], table[9] = (4, 1, 200_000), (1, 1, 900_000)
    result = calibration(table)
    assert [each["mean_probability"] for each in result["bins"]] == [0.05, *[None] * 8, 0.9]
    # |1 - 0.2| and |1 - 0.9| of five pairs
    assert result["expected_calibration_error"] == pytest.approx(0.18)
    assert calibration(np.zeros((PROBABILITY_BINS, 3), np.int64))["expected_calibration_error"] is None


def counted():
    counts = no_counts(2)
    counts.outcomes_O[:] = (2, 1, 1, 3, 4, 5, 6)
    counts.cosine_B2[:] = grid({1000: (2, 1), 2000: (1, 1), 3000: (1, 1)})
    counts.found_B[[STEPS + 1000, STEPS + 3000]] = (1, 2)
    counts.size_S2[1] = (4, 3)
    counts.labels_K[0] = (4, 3, 6, 5, 3, 10, 8, 2)
    counts.nouns.update({"dog": np.array([2, 0, 1, 0, 0, 0, 0]), "a|b": np.array([0, 1, 0, 3, 4, 5, 6])})
    counts.images[:] = (6, 1, 0)
    return counts


def test_precision_and_recall_as_the_least_cosine_rises():
    points = [(each["cosine"], each["pairs"], each["precision"], each["recall"]) for each in curve(counted())]
    assert points == [(0.1, 4, 0.75, 0.6), (0.2, 2, 1.0, 0.4), (0.3, 1, 1.0, 0.4)]


def test_the_numbers_by_hand():
    numbers = audit_numbers(counted(), (("dog",), ("cat",)), FACTS)
    assert numbers["pairs"] == sum(numbers["outcomes"].values()) == 22
    assert [numbers[name]["precision"] for name in ("judged", "judged_equal_names", "all_nouns")] == [0.75, 0.5, 0.375]
    recall = numbers["recall"]
    assert [recall[name] for name in ("of_named_image_labels", "of_named_things", "of_things")] == [0.6, 0.25, 0.2]
    assert [(row["noun"], row["all"], row["pairs"], row["right"]) for row in numbers["by_noun"]] == [
        ("a|b", 19, 1, 1),
        ("dog", 3, 3, 2),
    ]
    assert [row["label"] for row in numbers["by_label"]] == ["dog"]
    assert numbers["images"] == {"labelled": 6, "without truth": 1, "of another size": 0}


def test_the_words_say_the_numbers():
    numbers = audit_numbers(counted(), (("dog",), ("cat",)), FACTS | {"meaningless": True, "named_by": "PAIRS"})
    text = audit_text(numbers)
    rows = {line[:44].strip(): line[44:].split()[:3] for line in text.splitlines()}
    assert rows["nouns that the labels can judge"] == ["4", "3", "0.750"]
    assert rows["all things, IoU 0.5"] == ["10", "2", "0.200"]
    assert "A rule." in text
    assert "MEANINGLESS" in text
    assert "has no NOUNS" in text
    page = audit_markdown(numbers)
    assert "| a\\|b | 19 | 1 | 1 | 1.000 | 0.207 to 1.000 |" in page
    assert "| 1 to 5 % | 4 | 3 | 0.750 | 0.301 to 0.954 |" in page
    assert "| 20 to 100 % | 0 | 0 | - | - |" in page


def test_the_picture_is_the_same_twice_and_can_be_of_nothing():
    numbers = audit_numbers(counted(), (("dog",), ("cat",)), FACTS)
    assert draw_audit(numbers) == draw_audit(numbers)
    assert draw_audit(audit_numbers(no_counts(1), (("dog",),), FACTS)).startswith(b"\x89PNG")
