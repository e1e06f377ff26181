"""At most so many pairs of a noun."""

import numpy as np
import pyarrow as pa
import pytest
from test_selection import rows_with

from pipelines.noun_cap import NounCap, hash_heads, place_in_group

ROWS = rows_with(
    noun=["dog", "dog", "cat", "dog", "dog", "cat"],
    cosine=[0.1, 0.3, 0.2, 0.3, 0.2, 0.1],
    pair_id=[letter * 32 for letter in "aecbdf"],
)


def kept(cap, by, rows):
    counted = NounCap(cap, by)
    for start in range(0, rows.num_rows, 2):
        counted.see(rows.slice(start, 2))
    return sorted(each[0] for each in rows.filter(pa.array(counted.kept_rows()))["pair_id"].to_pylist())


@pytest.mark.parametrize(
    ("cap", "by", "wanted"),
    [
        (1, "cosine", ["b", "c"]),
        (2, "cosine", ["b", "c", "e", "f"]),
        (3, "cosine", ["b", "c", "d", "e", "f"]),
        (1, "hash", ["a", "c"]),
        (2, "hash", ["a", "b", "c", "f"]),
        (9, "hash", ["a", "b", "c", "d", "e", "f"]),
    ],
)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
def test_the_best_stay_in_any_order(cap, by, wanted, order):
    assert kept(cap, by, ROWS.take(order)) == wanted


def test_units_without_rows_count():
    counted = NounCap(1, "hash")
    counted.see(ROWS.slice(0, 0))
    counted.see(ROWS)
    assert len(counted.kept_rows()) == 6


def test_heads_of_hashes():
    assert hash_heads(pa.chunked_array([["00000000000000ff" + "f" * 16]])).tolist() == [255]


def test_places_in_groups():
    assert place_in_group(np.array([3, 3, 1, 3, 3, 3])).tolist() == [0, 1, 0, 0, 1, 2]
    assert place_in_group(np.array([], int)).tolist() == []
