"""The overhead of units: rows compared bit for bit, medians divided."""

import pyarrow as pa
import pytest

from benchmarks.unit_overhead import draw, measure, overhead, report, same_rows


def masks(*rows):
    ids, values = zip(*rows, strict=True)
    return pa.table({"image_id": ids, "mask_index": [0] * len(rows), "cosine": values})


def test_rows_are_equal_in_any_order_and_to_the_bit():
    assert same_rows(masks(("a", 0.1), ("b", 0.2)), masks(("b", 0.2), ("a", 0.1)), "masks")
    assert not same_rows(masks(("a", 0.1)), masks(("a", 0.1 + 1e-16 * 2)), "masks")
    assert not same_rows(masks(("a", 0.1)), masks(("a", 0.1), ("a", 0.1)), "masks")


def test_overhead_is_a_share_of_medians():
    times = {"direct": [10, 1, 100], "units": [11, 10.5, 900]}
    assert overhead(times) == pytest.approx(0.10)
    assert "overhead 10.0% (wanted at most 10%; noise 9900.0%)" in report(3, times)


def test_both_ways_make_the_same_rows(tmp_path):
    times = measure(tmp_path, draw(tmp_path, 3), 1)
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in times.values())
