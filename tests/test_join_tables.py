"""The union of one unit's rows, by hand: numbers, duplicates, order."""

import itertools

import pytest

from pipelines.join_tables import Record, caption_order, first_rows, join_unit, mask_order, renumbering, union
from schemas import CAPTIONS, MASKS, NOUNS, PAIRS, conform_rows
from schemas.examples import example_rows

WHOLE = ("captions", "nouns", "masks", "pairs")
HASHES = [f"{number:032x}" for number in range(10)]


def rows_of(table, *changes):
    """Rows of a table: the example with changes."""
    (example,) = example_rows(table, 1).to_pylist()
    return conform_rows([{**example, **each} for each in changes], table)


def mask(name):
    """An RLE that only its counts tell from others."""
    return {"size": [4, 4], "counts": name}


FRAME = {"height": 4, "width": 4, "box_xywh_px": [0, 0, 4, 4], "area_px": 16}


def caption(image_id, number, text, **more):
    return {"image_id": image_id, "caption_index": number, "caption": text, "image_uri": "x", **more}


def noun(image_id, number, start, name):
    end = start + len(name)
    return {"image_id": image_id, "caption_index": number, "noun": name, "start_char": start, "end_char": end}


def mask_row(image_id, number, name, generator="g"):
    return {"image_id": image_id, "mask_index": number, "mask": mask(name), "generator": generator, **FRAME}


def runner_up(number, name):
    scores = {"cosine": 0.1, "probability": 0.5, "noun_rank": 1, "margin": None, "runner_up_nouns": []}
    return {"mask_index": number, "mask": mask(name), "box_xywh_px": [0, 0, 4, 4], "area_px": 1, **scores}


def pair(key, image_id, number, text, start, mask_index, name, **more):
    place = {"caption_index": number, "caption": text, "start_char": start, "end_char": start + 1}
    found = {"mask_index": mask_index, "mask": mask(name), "generator": "g", **FRAME}
    return {"pair_id": HASHES[key], "image_id": image_id, "noun": "n", **place, **found, **more}


# Numbers


def test_numbers_that_agree_stay_even_with_gaps():
    records = [Record(("1", "a"), 0), Record(("1", "c"), 4), Record(("1", "c"), 4)]
    assert renumbering(records, caption_order) == {}


def test_captions_of_two_inputs_go_by_their_lowest_number_then_a_hash():
    # sha256: "dog" cd63…, "cat" 77af…
    records = [Record(("1", "dog"), 0), Record(("1", "ant"), 1), Record(("1", "cat"), 0), Record(("2", "dog"), 0)]
    wanted = {("1", "cat"): 0, ("1", "dog"): 1, ("1", "ant"): 2}
    assert all(renumbering(order, caption_order) == wanted for order in itertools.permutations(records))


def test_a_record_with_two_numbers_gets_one():
    records = [Record(("1", "a"), 0), Record(("1", "b"), 1), Record(("1", "b"), 5)]
    assert renumbering(records, caption_order) == {("1", "a"): 0, ("1", "b"): 1}


def test_masks_of_two_generators_stay_in_each_ones_order():
    sam = [Record(("1", "p"), 0, "sam"), Record(("1", "a"), 1, "sam")]
    felzenszwalb = [Record(("1", "q"), 0, "felzenszwalb"), Record(("1", "p"), 1, "felzenszwalb")]
    wanted = {("1", "q"): 0, ("1", "p"): 1, ("1", "a"): 2}
    assert renumbering([*sam, *felzenszwalb], mask_order) == wanted


# The union of a unit


@pytest.fixture
def runs():
    """Two runs that share image 2: a caption and a mask there are the same under other numbers, others are not."""
    first = {
        "captions": rows_of(CAPTIONS, caption("1", 0, "dog"), caption("2", 0, "dog"), caption("2", 1, "ant")),
        "nouns": rows_of(NOUNS, noun("1", 0, 0, "dog"), noun("2", 0, 0, "dog"), noun("2", 1, 0, "ant")),
        "masks": rows_of(MASKS, mask_row("1", 0, "k"), mask_row("2", 0, "p"), mask_row("2", 1, "q")),
        "pairs": rows_of(
            PAIRS,
            pair(1, "1", 0, "dog", 0, 0, "k"),
            pair(2, "2", 0, "dog", 0, 1, "q", runner_up_masks=[runner_up(0, "p")], scorer="one"),
            pair(3, "2", 1, "ant", 0, 0, "p", runner_up_masks=[runner_up(1, "q")], scorer="one"),
        ),
    }
    second = {
        "captions": rows_of(CAPTIONS, caption("2", 0, "cat", image_uri="w"), caption("2", 1, "dog", licence="free")),
        "nouns": rows_of(NOUNS, noun("2", 0, 0, "cat"), noun("2", 1, 0, "dog")),
        "masks": rows_of(MASKS, mask_row("2", 0, "q", "f"), mask_row("2", 1, "r", "f")),
        "pairs": rows_of(
            PAIRS,
            pair(4, "2", 0, "cat", 0, 1, "r", runner_up_masks=[runner_up(0, "q")], scorer="two", generator="f"),
            pair(2, "2", 1, "dog", 0, 0, "q", runner_up_masks=[], scorer="two", generator="f"),
        ),
    }
    return [first, second]


def test_captions_are_one_by_text_and_nouns_follow(runs):
    joined = join_unit(runs, WHOLE).tables
    found = [(row["image_id"], row["caption_index"], row["caption"]) for row in joined["captions"].to_pylist()]
    assert found == [("1", 0, "dog"), ("2", 0, "cat"), ("2", 1, "dog"), ("2", 2, "ant")]
    assert joined["captions"]["image_uri"].to_pylist() == ["x", "w", "w", "w"]
    assert joined["captions"]["licence"].to_pylist() == [None, None, "free", None]
    found = [(row["image_id"], row["caption_index"], row["noun"]) for row in joined["nouns"].to_pylist()]
    assert found == [("1", 0, "dog"), ("2", 0, "cat"), ("2", 1, "dog"), ("2", 2, "ant")]


def test_masks_are_one_by_their_rle_and_pairs_follow(runs):
    joined = join_unit(runs, WHOLE).tables
    found = [
        (row["image_id"], row["mask_index"], row["mask"]["counts"], row["generator"])
        for row in joined["masks"].to_pylist()
    ]
    assert found == [("1", 0, "k", "g"), ("2", 0, "q", "f"), ("2", 1, "r", "f"), ("2", 2, "p", "g")]
    columns = ("pair_id", "caption_index", "caption", "mask_index", "scorer")
    found = [tuple(row[name] for name in columns) for row in joined["pairs"].to_pylist()]
    assert found == [
        (HASHES[1], 0, "dog", 0, "example"),
        (HASHES[4], 0, "cat", 1, "two"),
        (HASHES[2], 1, "dog", 0, "one"),
        (HASHES[3], 2, "ant", 2, "one"),
    ]
    runner_ups = [
        [(each["mask_index"], each["mask"]["counts"]) for each in row["runner_up_masks"]]
        for row in joined["pairs"].to_pylist()
    ]
    assert runner_ups == [[], [(0, "q")], [(2, "p")], [(0, "q")]]


def test_the_pair_that_sorts_first_stays_and_the_other_is_a_drop(runs):
    (drop,) = join_unit(runs, WHOLE).drops
    assert drop == {
        "stage": "merge_runs",
        "key": HASHES[2],
        "image_id": "2",
        "reason": "duplicate_record",
        "detail": "kept is that of 2#1 by one on g; this one was scored by two",
    }


def test_the_order_of_the_runs_does_not_matter(runs):
    there, back = join_unit(runs, WHOLE), join_unit(runs[::-1], WHOLE)
    assert all(there.tables[name].equals(back.tables[name]) for name in WHOLE)
    assert there.drops == back.drops


def test_pairs_alone_know_the_captions_and_masks_that_they_name(runs):
    pairs = [{"pairs": run["pairs"]} for run in runs]
    joined = join_unit(pairs, ("pairs",)).tables["pairs"].to_pylist()
    found = {row["pair_id"]: (row["caption_index"], row["mask_index"]) for row in joined}
    assert found == {HASHES[1]: (0, 0), HASHES[4]: (0, 1), HASHES[2]: (1, 0), HASHES[3]: (2, 2)}
    back = join_unit(pairs[::-1], ("pairs",)).tables["pairs"]
    assert back.to_pylist() == joined


def test_a_run_joined_with_a_part_of_itself_is_as_it_was(runs):
    first = runs[0]
    part = {name: rows.slice(rows.num_rows - 1) for name, rows in first.items()}
    joined = join_unit([part, first], WHOLE)
    assert all(joined.tables[name].to_pylist() == first[name].to_pylist() for name in WHOLE)
    assert [drop["key"] for drop in joined.drops] == [HASHES[3]]


def test_images_of_one_run_alone_keep_rows_that_are_alike():
    twice = rows_of(MASKS, mask_row("1", 0, "k"), mask_row("1", 1, "k"))
    kept, drops = union("masks", [twice, rows_of(MASKS, mask_row("2", 0, "k"))], shared=set())
    assert kept["mask_index"].to_pylist() == [0, 1, 0]
    assert drops == []


def test_rows_that_differ_in_lists_alone_are_compared_as_text():
    rows = [pair(1, "1", 0, "dog", 0, 0, "k", hard_negatives=names) for names in (["b"], ["a"], ["c"])]
    for order in itertools.permutations(rows):
        kept, drops = first_rows("pairs", rows_of(PAIRS, *order))
        assert kept["hard_negatives"].to_pylist() == [["a"]]
        assert len(drops) == 2


def test_what_is_known_is_kept_before_what_is_not():
    rows = [caption("1", 0, "dog", licence=licence) for licence in (None, "free")]
    kept, _ = first_rows("captions", rows_of(CAPTIONS, *rows))
    assert kept["licence"].to_pylist() == ["free"]


def test_nothing_joined_is_nothing():
    empty = {
        name: rows_of(table).slice(0, 0) for name, table in zip(WHOLE, (CAPTIONS, NOUNS, MASKS, PAIRS), strict=True)
    }
    joined = join_unit([empty, empty], WHOLE)
    assert [joined.tables[name].num_rows for name in WHOLE] == [0, 0, 0, 0]
    assert joined.drops == []
