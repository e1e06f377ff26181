"""What the union dropped: each record once, none that it kept, so that sums add up."""

import pytest
from test_join_tables import caption, mask_row, noun, pair, rows_of

from pipelines.join_drops import Unit, carried_drops, most_of_each, moved_key
from pipelines.join_tables import join_unit, shared_images
from schemas import CAPTIONS, DROPS, MASKS, NOUNS, PAIRS, conform_rows

WHOLE = ("captions", "nouns", "masks", "pairs")


def drops_of(stage, *drops):
    """DROPS rows of one stage: key, image_id, reason and detail."""
    names = ("key", "image_id", "reason", "detail")
    return conform_rows([{"stage": stage, **dict(zip(names, each, strict=True))} for each in drops], DROPS)


def joined_drops(runs):
    """What is carried along of two runs' rows and drops: by stage its drops as tuples, and its totals."""
    joined = join_unit(runs, WHOLE)
    stages = carried_drops(Unit(runs, joined.numbers, shared_images(runs, WHOLE), joined.tables))
    columns = ("key", "reason", "detail")
    rows = {
        name: sorted(tuple(row[column] for column in columns) for row in stage.rows.to_pylist())
        for name, stage in stages.items()
    }
    return rows, {name: stage.totals for name, stage in stages.items()}


@pytest.fixture
def runs():
    """Image 2 is in both: the first could not read it, the second paired "cat" from its caption 0, which is 1 there."""
    first = {
        "captions": rows_of(
            CAPTIONS, caption("1", 0, "dog"), caption("2", 0, "the"), caption("2", 1, "cat"), caption("2", 2, "a cat")
        ),
        "nouns": rows_of(NOUNS, noun("1", 0, 0, "dog"), noun("2", 1, 0, "cat"), noun("2", 2, 2, "cat")),
        "masks": rows_of(MASKS, mask_row("1", 0, "k")),
        "pairs": rows_of(PAIRS, pair(1, "1", 0, "dog", 0, 0, "k", noun="dog", end_char=3)),
        "read_captions": drops_of(
            "read_captions",
            ("f:1", None, "not_json", "{"),
            ("f:1", None, "not_json", "{"),
            ("f:2", None, "not_json", ""),
        ),
        "extract_nouns": drops_of("extract_nouns", ("2#0", "2", "no_nouns", "the")),
        "propose_masks": drops_of("propose_masks", ("2", "2", "image_missing", "no file")),
        "match_regions": drops_of(
            "match_regions",
            ("2#1:0-3", "2", "no_masks", "cat: its image has no masks"),
            ("2#2:2-5", "2", "duplicate_noun", "cat: paired from 2#1:0-3"),
        ),
    }
    second = {
        "captions": rows_of(CAPTIONS, caption("2", 0, "cat"), caption("2", 1, "the")),
        "nouns": rows_of(NOUNS, noun("2", 0, 0, "cat")),
        "masks": rows_of(MASKS, mask_row("2", 0, "q")),
        "pairs": rows_of(PAIRS, pair(2, "2", 0, "cat", 0, 0, "q", noun="cat", end_char=3)),
        "read_captions": drops_of("read_captions", ("f:1", None, "not_json", "{"), ("g:5", None, "not_utf8", "")),
        "extract_nouns": drops_of("extract_nouns", ("2#1", "2", "no_nouns", "the")),
        "propose_masks": drops_of("propose_masks"),
        "match_regions": drops_of("match_regions"),
    }
    return [first, second]


def test_each_record_of_the_union_is_kept_or_dropped_once(runs):
    rows, totals = joined_drops(runs)
    # By the lowest number and then the hash ("cat" 77af… before "the" b9776…): cat 0, the 1, a cat 2.
    assert rows == {
        "read_captions": [
            ("f:1", "not_json", "{"),
            ("f:1", "not_json", "{"),
            ("f:2", "not_json", ""),
            ("g:5", "not_utf8", ""),
        ],
        "extract_nouns": [("2#1", "no_nouns", "the")],
        "propose_masks": [],
        "match_regions": [("2#2:2-5", "duplicate_noun", "cat: paired from 2#0:0-3")],
    }
    assert {name: (each.read, each.kept) for name, each in totals.items()} == {
        "read_captions": (8, 4),
        "extract_nouns": (4, 3),
        "propose_masks": (2, 2),
        "match_regions": (3, 2),
    }


def test_the_order_of_the_runs_does_not_matter(runs):
    assert joined_drops(runs) == joined_drops(runs[::-1])


def test_of_two_reasons_the_first_stays(runs):
    second = runs[1]
    second |= {"masks": second["masks"].slice(0, 0), "pairs": second["pairs"].slice(0, 0)}
    second["propose_masks"] = drops_of("propose_masks", ("2", "2", "fetch_failed", "reset"))
    second["match_regions"] = drops_of("match_regions", ("2#0:0-3", "2", "abstract", "cat: flagged"))
    rows, _ = joined_drops(runs)
    assert rows["propose_masks"] == [("2", "fetch_failed", "reset")]
    assert rows["match_regions"] == [
        ("2#0:0-3", "abstract", "cat: flagged"),
        ("2#2:2-5", "duplicate_noun", "cat: paired from 2#1:0-3"),
    ]


def test_a_noun_that_nothing_tells_of_is_an_error_of_ours(runs):
    runs[0]["match_regions"] = drops_of("match_regions")
    runs[1]["pairs"] = runs[1]["pairs"].slice(0, 0)
    with pytest.raises(RuntimeError, match="a record was lost or counted twice"):
        joined_drops(runs)


def test_keys_follow_their_caption_and_others_stay():
    moves = {("a#1", 3): 0}
    assert moved_key("a#1#3:2-5", "a#1", moves) == "a#1#0:2-5"
    assert moved_key("a#1#3", "a#1", moves) == "a#1#0"
    assert moved_key("a#1#4", "a#1", moves) == "a#1#4"
    assert moved_key("a#1", "a#1", moves) == "a#1"
    assert moved_key("3", "3", {("3", 3): 0}) == "3"
    assert moved_key("file:3", "a#1", moves) == "file:3"


def test_equal_drops_count_as_often_as_where_there_are_most():
    once, twice = ("f:1", None, "not_json", ""), ("f:2", None, "not_json", "")
    found = most_of_each([drops_of("read_captions", once, twice, twice), drops_of("read_captions", once, twice)])
    assert sorted(found["key"].to_pylist()) == ["f:1", "f:2", "f:2"]
