"""Axes, bins and bars by hand; that they can be seen is test_report's."""

import re

import numpy as np
import pytest

from pipelines.report_plots import (
    BINS,
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Yield,
    histogram,
    linear_axis,
    log_axis,
    percent_by_bin,
    rank_plot,
    round_step,
    tick_text,
    yields_plot,
)

BASE = HEIGHT - BOTTOM


def rects(svg):
    numbers = re.findall(r'<rect [^>]*?x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    return [tuple(map(float, each)) for each in numbers]


def points(svg, class_):
    text = re.search(rf'<polyline class="{class_}" points="([^"]+)"', svg)[1]
    return [tuple(map(float, point.split(","))) for point in text.split()]


@pytest.mark.parametrize(("step", "wanted"), [(0.13, 0.2), (1.0, 1.0), (0.2, 0.2), (3, 5), (60, 100), (0.0021, 0.005)])
def test_steps_are_round(step, wanted):
    assert round_step(step) == pytest.approx(wanted)


def test_ticks_are_round_numbers_inside_the_axis():
    assert Axis(0.13, 0.52, "").ticks() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert Axis(-1, 1, "").ticks() == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert log_axis(0.03, 70, "").ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert [tick_text(value) for value in (0.1, 3 * 0.1, -1e-17, 25_000)] == ["0.1", "0.3", "0", "25,000"]


def test_a_logarithmic_axis_reaches_from_a_power_of_ten_to_another():
    axis = log_axis(5, 5, "")
    assert (axis.low, axis.high) == (1, 10)
    assert axis.shares([1, 10, 10**0.5]).tolist() == pytest.approx([0, 1, 0.5])


def test_one_value_and_none_still_have_an_axis():
    assert linear_axis(np.array([3.0, 3.0]), "") == Axis(2.5, 3.5, "")
    assert linear_axis(np.array([]), "") == Axis(0, 1, "")


def test_bins_hold_percent_and_what_lies_beyond_counts_in_the_outer_ones():
    percents = percent_by_bin(np.array([-1, 0.01, 0.99, 7]), Axis(0, 1, ""))
    assert percents.tolist() == [50, *[0] * (BINS - 2), 50]


def test_bars_are_as_high_as_their_bins():
    first, last = rects(histogram("t", {"a": np.array([0, 0, 0, 1.0])}, Axis(0, 1, "")))
    assert (first[0], first[1], first[3]) == (LEFT, TOP, BASE - TOP)  # 75 %, the highest
    assert last[3] == pytest.approx((BASE - TOP) / 3, abs=0.06)
    assert last[0] == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * (BINS - 1) / BINS, abs=0.06)


def test_a_second_series_is_a_line_on_the_same_axes():
    svg = histogram("t", {"a": np.array([0.0, 1.0]), "b": np.array([0.0])}, Axis(0, 1, ""))
    outline = points(svg, "line second")
    assert outline[0] == (LEFT, TOP)  # 100 % stand at the top, and the 50 % of the bars half way
    assert outline[-1] == (WIDTH - RIGHT, BASE)
    assert rects(svg)[0][1] == pytest.approx((TOP + BASE) / 2, abs=0.06)
    assert "■ a" in svg
    assert "■ b" in svg


def test_ranks_and_counts_are_logarithmic():
    svg = rank_plot("t", {"captions": np.array([1, 100, 10, 0]), "pairs": np.array([7])})
    line = points(svg, "line first")
    assert line[0] == (LEFT, TOP)  # rank 1 of 10, 100 times of 100
    assert line[-1][1] == BASE  # the third has 1; the fourth, 0, has no place
    assert len(line) == 3
    assert '<circle class="dot line second"' in svg


def test_many_ranks_are_few_points():
    assert len(points(rank_plot("t", {"captions": np.arange(1, 100_001)}), "line first")) <= 200


def test_a_stages_bar_is_the_share_that_it_kept():
    all_, kept, nothing, none = rects(yields_plot([Yield("a", "3 of 4", 4, 3), Yield("b", "0 of 0", 0, 0)]))[:4]
    assert kept[2] == pytest.approx(0.75 * all_[2])
    assert (nothing[2], none[2]) == (all_[2], 0)


def test_text_of_a_plot_is_no_markup():
    assert "<b>" not in histogram("<b>", {"<b>": np.array([1.0]), "c": np.array([1.0])}, Axis(0, 1, "<b>"))
