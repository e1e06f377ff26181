"""RLE: by-hand strings, round trips, areas, boxes, IoU and label maps."""

import numpy as np
import pytest

from ovseg_model import rle
from ovseg_model.rle import Rle

MASK_4x6 = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1],
    ],
    dtype=bool,
)
# Down the columns: 5 zeros, 2 ones, 2 zeros, 2 ones, 3 zeros, 1 one, 8 zeros, 1 one. From the fourth number
# on the difference to the number two before is written: 5 2 2 0 1 -1 5 0; each plus 48,
# and -1 as 31 + 48 = "O".
RUNS_4x6 = [5, 2, 2, 2, 3, 1, 8, 1]
RLE_4x6 = Rle(size=[4, 6], counts="52201O50")


def random_masks(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


def test_mask_drawn_by_hand_has_the_counts_worked_out_by_hand():
    assert rle.encode_masks(MASK_4x6[None]) == [RLE_4x6]
    assert rle.run_lengths(RLE_4x6["counts"]).tolist() == RUNS_4x6


def test_mask_drawn_by_hand_comes_back():
    masks_NHW = rle.decode_masks([RLE_4x6])
    assert masks_NHW.dtype == bool and masks_NHW.flags.c_contiguous
    np.testing.assert_array_equal(masks_NHW, MASK_4x6[None])


def test_empty_and_full_masks():
    masks_NHW = np.stack([np.zeros((4, 6), bool), np.ones((4, 6), bool)])
    rles = rle.encode_masks(masks_NHW)
    # 24 = 11000 in binary: the low group 24 with the "more" bit, then 0 for a positive sign
    assert [one["counts"] for one in rles] == ["h0", "0h0"]
    assert rle.areas_px(rles).tolist() == [0, 24]
    assert rle.boxes_xywh_px(rles).tolist() == [[0, 0, 0, 0], [0, 0, 6, 4]]
    np.testing.assert_array_equal(rle.decode_masks(rles), masks_NHW)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (3, 7, 1), (5, 33, 21)])
def test_round_trip(shape):
    masks_NHW = random_masks(0, shape)
    np.testing.assert_array_equal(rle.decode_masks(rle.encode_masks(masks_NHW)), masks_NHW)


def test_runs_longer_than_the_code_of_one_group():
    mask_HW = np.zeros((1000, 1200), bool)
    mask_HW[1, 5:9] = True
    encoded = rle.encode_masks(mask_HW[None])[0]
    assert rle.run_lengths(encoded["counts"]).tolist() == [5001, 1, 999, 1, 999, 1, 999, 1, 1191998]
    np.testing.assert_array_equal(rle.decode_masks([encoded])[0], mask_HW)


def test_chunks_do_not_change_the_result(monkeypatch):
    masks_NHW = random_masks(1, (7, 5, 6))
    whole = rle.encode_masks(masks_NHW)
    monkeypatch.setattr(rle, "ENCODE_CHUNK_PX", 60)  # two masks a chunk
    assert rle.encode_masks(masks_NHW) == whole
    monkeypatch.setattr(rle, "ENCODE_CHUNK_PX", 1)  # less than one mask
    assert rle.encode_masks(masks_NHW) == whole


def test_no_masks():
    assert rle.encode_masks(np.zeros((0, 4, 6), bool)) == []
    assert rle.areas_px([]).shape == (0,)
    assert rle.boxes_xywh_px([]).shape == (0, 4)
    assert rle.iou_matrix([], [RLE_4x6]).shape == (0, 1)
    with pytest.raises(ValueError, match="at least one mask, got none"):
        rle.decode_masks([])


def test_areas_and_boxes_of_more_masks_than_pycocotools_counts():
    masks_NHW = np.eye(600, dtype=bool).reshape(600, 20, 30)
    rles = rle.encode_masks(masks_NHW)
    assert rle.areas_px(rles).tolist() == [1] * 600
    assert rle.boxes_xywh_px(rles)[[0, 31, 599]].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [29, 19, 1, 1]]


def test_box_is_tight_and_integer():
    boxes = rle.boxes_xywh_px([RLE_4x6])
    assert boxes.dtype == np.int64
    assert boxes.tolist() == [[1, 1, 5, 3]]


def test_iou_counts_pixels():
    masks_NHW = np.zeros((3, 4, 6), bool)
    masks_NHW[0, :2, :2] = True  # 4 pixels
    masks_NHW[1, :2, 1:4] = True  # 6 pixels, 2 of them shared
    rles = rle.encode_masks(masks_NHW)
    np.testing.assert_array_equal(rle.iou_matrix(rles[:2], rles), [[1, 2 / 8, 0], [2 / 8, 1, 0]])


def test_iou_refuses_several_sizes():
    with pytest.raises(ValueError, match="one size, got several"):
        rle.iou_matrix([RLE_4x6], rle.encode_masks(np.ones((1, 2, 2), bool)))


@pytest.mark.parametrize("masks", [np.zeros((1, 2, 2), np.uint8), np.zeros((2, 2), bool)])
def test_encode_refuses_other_dtypes_and_ranks(masks):
    with pytest.raises(ValueError, match=r"wanted bool \(N, H, W\)"):
        rle.encode_masks(masks)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("52201O5", "cover 23 pixels"),
        ("52201O5000", "cover 33 pixels"),
        ("", "cover 0 pixels"),
        ("52201O50\x7f", "not a compressed COCO RLE"),
        ("52201O5é", "not a compressed COCO RLE"),
        ("52201O5P", "not a compressed COCO RLE"),
        ("o" * 9 + "0", "more than 40 bits"),
    ],
)
def test_decode_refuses_runs_that_do_not_fill_the_mask(counts, message):
    with pytest.raises(ValueError, match=message):
        rle.decode_masks([Rle(size=[4, 6], counts=counts)])


def test_negative_run_is_refused():
    # -1, then 25: they sum to 24, and would write before the mask's memory
    with pytest.raises(ValueError, match="its runs cover 24 pixels"):
        rle.check_rles([Rle(size=[4, 6], counts="Oi0")])


def test_decode_names_the_mask_of_another_size():
    with pytest.raises(ValueError, match=r"mask 1: wanted size \[4, 6\], got \[6, 4\]"):
        rle.decode_masks([RLE_4x6, Rle(size=[6, 4], counts="h0")])


def test_encode_runs_ends_as_given():
    assert rle.encode_runs([np.array(RUNS_4x6), np.array([0, 24])], 4, 6) == [
        RLE_4x6,
        Rle(size=[4, 6], counts="0h0"),
    ]
    assert rle.encode_runs([], 4, 6) == []


def test_polygons_are_joined():
    two_squares = [[0, 0, 2, 0, 2, 2, 0, 2], [4, 0, 6, 0, 6, 2, 4, 2]]
    expected = np.zeros((4, 6), bool)
    expected[:2, [0, 1, 4, 5]] = True
    np.testing.assert_array_equal(rle.decode_masks([rle.encode_polygons(two_squares, 4, 6)])[0], expected)


def test_labels_drawn_by_hand():
    labels, rles = rle.encode_labels(np.where(MASK_4x6, 7, -3))
    assert labels.tolist() == [-3, 7]
    assert rles[1] == RLE_4x6
    np.testing.assert_array_equal(rle.decode_masks(rles)[0], ~MASK_4x6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_labels_equal_one_comparison_a_label(dtype):
    labels_HW = np.random.default_rng(2).integers(0, 5, (17, 23)).repeat(2, axis=0).astype(dtype)
    labels, rles = rle.encode_labels(labels_HW)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert rles == rle.encode_masks(labels_HW == np.arange(5)[:, None, None])


def test_labels_of_one_value_and_of_no_pixel():
    assert rle.encode_labels(np.full((4, 6), 9, np.uint8))[1] == [Rle(size=[4, 6], counts="0h0")]
    labels, rles = rle.encode_labels(np.zeros((0, 6), np.uint8))
    assert labels.size == 0 and rles == []


def test_labels_refuse_floats():
    with pytest.raises(ValueError, match=r"wanted integers \(H, W\), got float64 \(4, 6\)"):
        rle.encode_labels(np.zeros((4, 6)))


def test_cover_is_the_share_of_the_first_masks():
    one, other, empty = (columns_mask(columns) for columns in (slice(0, 4), slice(2, 8), slice(0)))
    shares = rle.cover_matrix([one, other, empty], [other, one])
    np.testing.assert_allclose(shares, [[0.5, 1.0], [1.0, 2 / 6], [0.0, 0.0]])
    assert rle.cover_matrix([one], []).shape == (1, 0)
    with pytest.raises(ValueError, match="cover_matrix: wanted masks of one size"):
        rle.cover_matrix([one], [columns_mask(slice(0, 1), (3, 10))])


def test_a_union_has_the_pixels_of_all():
    masks = [columns_mask(slice(0, 4)), columns_mask(slice(2, 5))]
    assert rle.union_mask(masks) == columns_mask(slice(0, 5))
    with pytest.raises(ValueError, match="union_mask: wanted masks of one size, at least one"):
        rle.union_mask([])


def columns_mask(columns, size=(2, 10)):
    """An RLE of some columns."""
    pixels = np.zeros((1, *size), bool)
    pixels[0, :, columns] = True
    return rle.encode_masks(pixels)[0]
