"""Images that look alike, and masks of the same thing."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from test_selection import rows_with

from ovseg_model import rle
from pipelines.near_duplicates import (
    alike,
    bands,
    duplicate_images,
    first_alike,
    hashes_of,
    most_iou,
    pairs_of_equals,
    select_masks,
    those_that_go,
)


def images(*hashes):
    """Images a, b, … whose sha256 sort as they do, with hashes of so many set bits."""
    names = [chr(ord("a") + index) for index in range(len(hashes))]
    texts = [f"{(1 << bits) - 1:016x}" for bits in hashes]
    return pa.table({"image_id": names, "image_sha256": names, "image_phash": texts})


def twin(image_id, bits):
    """What is said of an image in whose place another stays."""
    return f"kept: image {image_id}, {bits} bits away"


def test_the_first_by_content_stays():
    assert duplicate_images(images(0, 40, 3, 41), 3) == {"c": twin("a", 3), "d": twin("b", 1)}


def test_a_chain_is_as_long_as_its_links_that_stay():
    # b is alike to a and goes; c is alike to b alone, and stays.
    assert duplicate_images(images(0, 4, 8), 4) == {"b": twin("a", 4)}
    assert duplicate_images(images(0, 8, 4), 4) == {"c": twin("a", 4)}


def test_equal_hashes_are_alike_at_0_bits():
    assert duplicate_images(images(5, 6, 5, 5), 0) == {"c": twin("a", 0), "d": twin("a", 0)}


def test_the_order_of_rows_does_not_matter():
    given = images(0, 4, 8, 12, 0, 2)
    wanted = duplicate_images(given, 4)
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        assert duplicate_images(given.take(list(order)), 4) == wanted
    assert duplicate_images(pa.concat_tables([given, given]), 4) == wanted


@pytest.mark.parametrize("bits", [0, 1, 6, 16])
def test_bands_are_the_whole_hash(bits):
    assert len(list(bands(bits))) == bits + 1
    shifts = [bit for shift, width in bands(bits) for bit in range(shift, shift + width)]
    assert shifts == list(range(64))


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bands_find_what_comparing_all_finds(bits):
    randoms = np.random.default_rng(bits)
    hashes = randoms.integers(0, 1 << 63, 60, np.uint64)
    for _ in range(4):  # relatives, each some bits away from one before
        flips = np.bitwise_or.reduce(np.uint64(1) << randoms.integers(0, 64, (60, 3), np.uint64), axis=1)
        hashes = np.concatenate([hashes, hashes[:60] ^ flips])
    hashes = np.unique(hashes)
    pairs = itertools.combinations(range(len(hashes)), 2)
    wanted = {(b, a) for a, b in pairs if int(hashes[a] ^ hashes[b]).bit_count() <= bits}
    assert alike(hashes, bits) == wanted
    assert wanted or bits == 1


def test_an_image_that_goes_takes_none_with_it():
    hashes = hashes_of(["0000000000000000", "0000000000000001", "0000000000000003"])
    assert first_alike(hashes, 1).tolist() == [0, 0, 2]
    assert first_alike(hashes[:0], 1).tolist() == []


def strip(start, end):
    mask = np.zeros((1, 4, 10), bool)
    mask[:, :, start:end] = True
    return rle.encode_masks(mask)[0]


def rows_of_masks(masks, **columns):
    """PAIRS rows of one image of 4 x 10 px."""
    return rows_with(
        image_id=["a"] * len(masks),
        height=[4] * len(masks),
        width=[10] * len(masks),
        mask=masks,
        box_xywh_px=rle.boxes_xywh_px(masks).tolist(),
        area_px=rle.areas_px(masks).tolist(),
        **columns,
    )


def test_the_better_of_two_masks_of_one_lemma_stays():
    rows = rows_of_masks(
        [strip(0, 8), strip(0, 10), strip(0, 10), strip(5, 10)],
        lemma=["dog", "dog", "cat", "dog"],
        cosine=[0.2, 0.3, 0.4, 0.1],
    )
    kept, dropped = select_masks(rows, 0.8)
    assert kept.equals(rows.slice(1))
    assert dropped["detail"].to_pylist() == [f"kept: pair {rows['pair_id'][1]}, IoU 0.800"]
    assert select_masks(rows, 0.81).dropped.num_rows == 0


def test_ties_go_to_the_lower_pair_id():
    ids = [letter * 32 for letter in "ba"]
    rows = rows_of_masks([strip(0, 8), strip(0, 8)], lemma=["dog"] * 2, cosine=[0.2] * 2, pair_id=ids)
    assert select_masks(rows, 0.5).kept["pair_id"].to_pylist() == ["a" * 32]


def test_other_images_have_masks_of_their_own():
    rows = rows_of_masks([strip(0, 8), strip(0, 8)], lemma=["dog"] * 2)
    names = pa.array(["a", "b"])
    apart = rows.set_column(rows.column_names.index("image_id"), rows.schema.field("image_id"), names)
    assert select_masks(apart, 0.5).kept.num_rows == 2


def test_a_mask_that_goes_takes_none_with_it():
    rows = rows_of_masks([strip(0, 6), strip(1, 7), strip(2, 8)], lemma=["dog"] * 3, cosine=[0.3, 0.2, 0.1])
    kept, dropped = select_masks(rows, 0.7)
    assert kept.equals(rows.take([0, 2]))
    assert dropped["detail"].to_pylist() == [f"kept: pair {rows['pair_id'][0]}, IoU 0.714"]


def test_what_goes_goes_for_the_first_that_stays():
    assert those_that_go([(3, 2), (1, 0), (2, 1), (3, 1)]) == {1: 0, 3: 2}


def test_all_pairs_of_equal_keys():
    places = np.concatenate([np.stack(pair, axis=1) for pair in pairs_of_equals(np.array([7, 7, 7, 8, 9, 9]))])
    assert sorted(places.tolist()) == [[0, 1], [0, 2], [1, 2], [4, 5]]


def test_no_iou_is_above_what_boxes_and_areas_allow():
    masks = [strip(start, end) for start, end in itertools.combinations(range(11), 2)]
    one, other = np.indices((len(masks), len(masks))).reshape(2, -1)
    most = most_iou(rle.boxes_xywh_px(masks), rle.areas_px(masks), one, other)
    # The boxes of strips are full, so that what they allow is what there is.
    assert most.tolist() == rle.iou_matrix(masks, masks).ravel().tolist()
    ring = np.ones((1, 4, 10), bool)
    ring[:, 1:3, 1:9] = False
    masks = [rle.encode_masks(ring)[0], strip(0, 10)]
    bound = most_iou(rle.boxes_xywh_px(masks), rle.areas_px(masks), np.array([0]), np.array([1]))
    assert bound.tolist() == [24 / 40] == [rle.iou_matrix(masks[:1], masks[1:])[0, 0]]


def test_no_rows_are_no_mistake():
    empty = rows_with(lemma=["dog"]).slice(0, 0)
    assert select_masks(empty, 0.5).kept.num_rows == 0
