"""Filters: what they keep, by value, and what they refuse, by sentence."""

import pickle

import pyarrow as pa
import pytest

from ovseg_model.pair_filter import parse_filter
from schemas import NOUNS, PAIRS, UserError

ROWS = pa.table(
    {
        "noun": ["dog", "cat", "dog", "day", "it's"],
        "cosine": pa.array([0.30, 0.25, 0.20, 0.10, 0.31], pa.float32()),
        "margin": pa.array([0.02, None, 0.00, None, 0.05], pa.float32()),
        "area_px": pa.array([4000, 900, 1024, 16, 2_000_000_000], pa.int32()),
        "height": pa.array([100, 100, 64, 8, 60_000], pa.int32()),
        "width": pa.array([100, 90, 64, 8, 60_000], pa.int32()),
        "abstract": [False, False, False, True, False],
        "hard_negatives": pa.array([["fox"], None, [], None, ["fox"]], pa.list_(pa.string())),
    }
)


def kept(text):
    numbered = ROWS.append_column("number", pa.array(range(ROWS.num_rows)))
    return sorted(numbered.filter(parse_filter(text, PAIRS).expression)["number"].to_pylist())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cosine > 0.25 and area_px > 1024 and not abstract", [0, 4]),
        ("cosine >= 0.25", [0, 1, 4]),
        ("0.1 < cosine <= 0.25", [1, 2]),
        ("0.3 > cosine > 0.1 > margin", [2]),
        ("(noun == 'cat' or abstract) and cosine < 0.2", [3]),
        ("noun == 'cat' or abstract and cosine < 0.2", [1, 3]),
        ("noun != 'dog'", [1, 3, 4]),
        ("'dog' < noun", [4]),
        ('noun == "it\'s"', [4]),
        ("noun in ['dog', 'day']", [0, 2, 3]),
        ("noun not in ('dog', 'day')", [1, 4]),
        ("area_px in [16, 900, 1024.5]", [1, 3]),
        ("cosine in [0.3, 0.2]", [0, 2]),
        ("cosine == 0.3", [0]),
        ("abstract == true", [3]),
        ("abstract != True", [0, 1, 2, 4]),
        ("margin is null", [1, 3]),
        ("margin is not None", [0, 2, 4]),
        ("hard_negatives is not null", [0, 2, 4]),
        ("margin > 0.01", [0, 4]),
        ("not margin > 0.01", [2]),
        ("not (margin > 0.01 or margin is null)", [2]),
        ("margin not in [0.05]", [0, 2]),
        ("area_px > 0.2 * height * width", [0, 2, 3, 4]),
        ("height * width > 3000000000", [4]),
        ("-cosine < -(0.1 + 0.2) and height == width", [0, 4]),
        ("cosine - margin > 0.27", [0]),
        ("area_px / (height - width) > 10", [0, 1, 2, 3, 4]),
        ("area_px > 1023.5 and area_px <= 2e9", [0, 2, 4]),
        ("cosine < area_px and area_px == 2000000000", [4]),
        ("area_px < 1" + "0" * 400, [0, 1, 2, 3, 4]),
        ("  cosine > 0.3\n and abstract == false ", [4]),
    ],
)
def test_a_filter_keeps_what_it_says(text, rows):
    # 0.3 as a float32 is a little more than 0.3: the number is rounded to the column's type.
    assert kept(text) == rows


def test_division_by_nothing_is_infinite_or_no_number():
    assert kept("area_px / (height - height) > 1e300") == [0, 1, 2, 3, 4]
    assert kept("(height - height) / (width - width) > 0") == []


def test_a_filter_knows_its_columns_and_its_conditions():
    row_filter = parse_filter("cosine > 0.25 and (noun == 'dog' or abstract) and 1 < width < height", PAIRS)
    assert row_filter.columns == ("height", "width", "noun", "cosine", "abstract")
    assert [condition.text for condition in row_filter.conditions] == [
        "cosine > 0.25",
        "noun == 'dog' or abstract",
        "1 < width < height",
    ]
    assert ROWS.filter(row_filter.conditions[1].expression)["noun"].to_pylist() == ["dog", "dog", "day"]


def test_a_filter_travels_to_other_processes():
    row_filter = pickle.loads(pickle.dumps(parse_filter("cosine > 0.25", PAIRS)))
    assert ROWS.filter(row_filter.expression).num_rows == 2


def test_any_table_can_be_filtered():
    assert parse_filter("not generic", NOUNS).columns == ("generic",)
    with pytest.raises(UserError, match="nouns has no column cosine"):
        parse_filter("cosine > 0.25", NOUNS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cosin > 0.25", "pairs has no column cosin; did you mean cosine?"),
        ("x > 1", "pairs has no column x; its columns are pair_id, image_id"),
        ("", "is empty; wanted a condition over the columns of pairs"),
        ("cosine >", "is no condition (invalid syntax"),
        ("cosine = 0.25", "equality is written =="),
        ("cosine > 0.2 AND abstract", "written in lower case"),
        ("abstract && generic", "wanted the words and, or, not"),
        ("cosine", "the column cosine is no yes or no"),
        ("cosine + 1", "'cosine + 1' is no condition"),
        ("noun > 3", "cannot compare noun (text) with 3 (number)"),
        ("noun in ['dog', 3]", "cannot compare noun (text) with 3 (number)"),
        ("noun in 'dog'", "in wants a list such as"),
        ("noun in []", "in wants a list such as"),
        ("cosine in [margin]", "a list holds numbers or strings, got margin"),
        ("noun + 'x' == 'dogx'", "noun is no number (text)"),
        ("abstract < generic", "are yes or no"),
        ("margin == null", "nothing equals null; write COLUMN is null"),
        ("margin is 3", "wanted COLUMN is null"),
        ("mask == 3", "the column mask is a struct"),
        ("1 < 2", "name no column of pairs"),
        ("1 / 0 < cosine", "division by zero"),
        ("__import__('os').system('true')", "is no condition"),
        ("cosine > [c for c in (1,)][0]", "is no column, number, 'string', true or false"),
        ("(lambda: 1)() < cosine", "is no column, number, 'string', true or false"),
        ("cosine > 9 ** 9 ** 9", "is no column, number, 'string', true or false"),
        ("caption == '\\ud800'", "holds a string that is no text"),
        ("not " * 20_000 + "abstract", "nested too deeply"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(UserError) as refusal:
        parse_filter(text, PAIRS, "--where")
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith("--where '") or str(refusal.value).startswith('--where "')
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 800
