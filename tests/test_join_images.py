"""Which images are one: by bytes, by URI, and what they are called where they are not."""

import hashlib
import itertools

import pyarrow as pa
import pytest

from pipelines.join_images import Sighting, identities, new_ids, of_images, renamed, renamed_drops, sightings_of
from schemas import DROPS, MASKS, conform_rows
from schemas.examples import example_rows

A, B = "a" * 64, "b" * 64
AT_X = hashlib.sha256(b"x").hexdigest()
AT_Y = hashlib.sha256(b"y").hexdigest()


@pytest.mark.parametrize(
    ("sightings", "wanted"),
    [
        ([(A, "x"), (A, "y")], [A, A]),  # mirrors of one image
        ([(A, "x"), (B, "x")], [A, B]),  # the image at the URI has changed
        ([(A, "x"), (None, "x")], [A, A]),  # unread there, at the same place
        ([(A, "x"), (None, "y")], [A, AT_Y]),
        ([(None, "x"), (None, "x")], [AT_X, AT_X]),
        ([(None, "x"), (None, "y")], [AT_X, AT_Y]),
        ([(A, "x"), (None, None)], [A, A]),  # nothing speaks against it
        ([(None, None), (None, None)], ["", ""]),
        ([(B, "x"), (A, "x"), (None, "x")], [B, A, A]),  # the smallest of those at the place
    ],
)
def test_what_each_run_means_by_an_image_id(sightings, wanted):
    for order in itertools.permutations(range(len(sightings))):
        found = identities([Sighting(*sightings[number]) for number in order])
        assert found == [wanted[number] for number in order]


def test_only_ids_that_mean_different_images_are_renamed_and_in_every_run():
    first = {"1": Sighting(A, "x"), "2": Sighting(A, "x"), "3": Sighting(A, "x")}
    second = {"1": Sighting(B, "y"), "2": Sighting(A, "z"), "4": Sighting(B, "y")}
    third = {"1": Sighting(A, "w")}
    names = new_ids([first, second, third])
    assert names == [{"1": "1@aaaaaaaaaaaa"}, {"1": "1@bbbbbbbbbbbb"}, {"1": "1@aaaaaaaaaaaa"}]


def test_bytes_say_more_than_the_uri_of_the_input():
    captions = pa.table({"image_id": ["1", "1", "2"], "image_uri": ["x", "x", None]})
    masks = pa.table({"image_id": ["1"], "image_uri": ["y"], "image_sha256": [A]})
    assert sightings_of(captions, masks) == {"1": Sighting(A, "y"), "2": Sighting(None, None)}


def test_rows_and_drops_follow():
    rows = example_rows(MASKS, 2)
    names = {"image-0000": "p", "image-0001": "q"}
    assert renamed(rows, names)["image_id"].to_pylist() == ["p", "q"]
    common = {"stage": "match_regions", "reason": "duplicate_noun"}
    drops = [
        {**common, "key": "1#0:2-6", "image_id": "1", "detail": "ball: paired from 1#0:0-4"},
        {**common, "key": "captions.json:7", "image_id": "1", "detail": "as it was"},
    ]
    moved = renamed_drops(conform_rows(drops, DROPS), {"1": "1@aa"}).to_pylist()
    assert [(row["key"], row["image_id"], row["detail"]) for row in moved] == [
        ("1@aa#0:2-6", "1@aa", "ball: paired from 1@aa#0:0-4"),
        ("captions.json:7", "1@aa", "as it was"),
    ]


def test_a_drop_without_an_image_is_of_none():
    drop = {"stage": "read_captions", "key": "f:1", "image_id": None, "reason": "not_json", "detail": ""}
    rows = conform_rows([drop, {**drop, "image_id": "1"}], DROPS)
    assert of_images(rows, ["1"])["image_id"].to_pylist() == ["1"]
    assert of_images(rows, ["1"], wanted=False)["image_id"].to_pylist() == [None]
