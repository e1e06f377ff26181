"""Rows by a condition: what stays, and what a drop says."""

import numpy as np
import pyarrow as pa

from ovseg_model.pair_filter import parse_filter
from pipelines.selection import first_failing, select, select_images, select_where, split_rows
from schemas import PAIRS, conform
from schemas.drops import DROPS
from schemas.examples import example_rows


def rows_with(**columns):
    rows = example_rows(PAIRS, len(next(iter(columns.values()))))
    for name, values in columns.items():
        field = PAIRS.schema.field(name)
        rows = rows.set_column(PAIRS.schema.names.index(name), field, pa.array(values, field.type))
    return conform(rows, PAIRS)


ROWS = rows_with(cosine=[0.1, 0.3, 0.3, 0.2], abstract=[False, True, False, True], margin=[0.1, 0.1, None, 0.1])


def test_the_first_condition_that_fails_is_named():
    condition = parse_filter("cosine > 0.15 and not abstract and margin > 0.05", PAIRS)
    assert first_failing(ROWS, condition).tolist() == [0, 1, 2, 1]
    kept, dropped = select_where(ROWS, condition)
    assert kept.num_rows == 0
    assert dropped["detail"].to_pylist() == [
        "not so: cosine > 0.15",
        "not so: not abstract",
        "not so: margin > 0.05",
        "not so: not abstract",
    ]


def test_what_holds_stays_as_it_is():
    kept, dropped = select_where(ROWS, parse_filter("abstract or cosine < 0.15", PAIRS))
    assert kept.equals(ROWS.take([0, 1, 3]))
    assert dropped.to_pylist() == [
        {
            "stage": "filter_pairs",
            "key": ROWS["pair_id"][2].as_py(),
            "image_id": ROWS["image_id"][2].as_py(),
            "reason": "not_selected",
            "detail": "not so: abstract or cosine < 0.15",
        }
    ]
    conform(dropped, DROPS)


def test_no_rows_are_no_mistake():
    kept, dropped = select_where(ROWS.slice(0, 0), parse_filter("abstract", PAIRS))
    assert (kept.num_rows, dropped.num_rows) == (0, 0)


def test_ways_follow_each_other():
    def without_first(rows):
        return split_rows(rows, np.arange(rows.num_rows) > 0, "over_noun_cap", "x")

    kept, dropped = select(ROWS, [without_first, without_first])
    assert kept.equals(ROWS.slice(2))
    assert dropped["key"].to_pylist() == ROWS["pair_id"].to_pylist()[:2]
    assert select(ROWS, []) == (ROWS, DROPS.schema.empty_table())


def test_pairs_of_images_that_are_gone_are_dropped():
    rows = rows_with(image_id=["a", "b", "a", "c"])
    kept, dropped = select_images(rows, {"a": "kept: image z, 2 bits away", "b": "val: x.png"}, "near_duplicate_image")
    assert kept.equals(rows.slice(3))
    assert dropped["detail"].to_pylist() == ["kept: image z, 2 bits away", "val: x.png", "kept: image z, 2 bits away"]
    assert dropped["key"].to_pylist() == rows["pair_id"].to_pylist()[:3]
    assert set(dropped["reason"].to_pylist()) == {"near_duplicate_image"}
    empty = rows.slice(0, 0)
    assert select_images(empty, {"a": "gone"}, "excluded_image").kept.equals(empty)
