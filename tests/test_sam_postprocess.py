"""SAM's logits to masks: enlargement, stability, boxes and small regions by value."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from tiny_sam import tiny_sam

from ovseg_model.proposals import sam_postprocess as post
from ovseg_model.proposals.sam_points import crops_of, grids, points_in
from ovseg_model.proposals.sam_postprocess import Frame
from ovseg_model.rle import decode_masks

FRAME = Frame(side_px=128, input_size=(96, 128), crop=(0, 0, 80, 60), image_size=(60, 80))
OPTIONS = SimpleNamespace(
    pred_iou_thresh=0.5,
    stability_score_thresh=0.5,
    stability_score_offset=1.0,
    box_nms_thresh=0.7,
    crop_nms_thresh=0.7,
    min_mask_region_area=3,
)


def blobs(count, cells=32):
    """Smooth logits (N, cells, cells)."""
    coarse = torch.randn(count, 1, 5, 5, generator=torch.manual_seed(0))
    return 4 * torch.nn.functional.interpolate(coarse, (cells, cells), mode="bicubic")[:, 0]


@pytest.mark.parametrize("input_size", [(96, 128), (128, 50), (128, 128), (1, 128)])
def test_logits_are_enlarged_bit_by_bit_as_segment_anything_does(input_size):
    frame = FRAME._replace(input_size=input_size)
    expected = tiny_sam().postprocess_masks(blobs(3)[:, None], input_size, (60, 80))[:, 0]
    height, width = frame.used(32)
    assert (height, width) == tuple(min(32, -(-side // 4) + 1) for side in input_size)
    assert torch.equal(post.enlarge(blobs(3)[:, :height, :width], frame, 32), expected)


def test_stability_and_boxes_are_segment_anythings():
    logits = blobs(6)
    logits[0] = -2
    assert torch.isnan(post.stability_of(logits[:1], 1.0)).all()
    assert torch.equal(post.stability_of(logits[1:], 1.0), calculate_stability_score(logits[1:], 0.0, 1.0))
    assert torch.equal(post.boxes_of(logits > 0), batched_mask_to_box(logits > 0))
    assert post.boxes_of(logits > 0)[0].tolist() == [0, 0, 0, 0]


def test_first_and_last_by_value():
    first, last = post.first_and_last(torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).byte())
    assert (first.tolist(), last.tolist()) == ([1, 0, 0], [3, 0, 0])


@pytest.mark.parametrize("pixels", [1, 9600, 1 << 20])
def test_few_or_many_at_once_measure_the_same(monkeypatch, pixels):
    logits, iou = blobs(9)[:, :25], torch.linspace(0.1, 0.9, 9)
    expected = post.measure(logits, iou, FRAME, 32, OPTIONS)
    monkeypatch.setitem(post.PIXELS_AT_ONCE, "cpu", pixels)
    found = post.measure(logits, iou, FRAME, 32, OPTIONS)
    assert 0 < len(found.iou_N) < 9
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert post.encode(found.logits_Nhw, FRAME, 32) == post.encode(expected.logits_Nhw, FRAME, 32)


@pytest.mark.parametrize("at_once", [1, 3, 6])
def test_masks_are_scored_and_encoded_by_one_enlargement(monkeypatch, at_once):
    logits, iou = blobs(6)[:, :25], torch.linspace(0.1, 0.9, 6)
    logits[4] = -9
    enlarged, whole = [], post.enlarge
    monkeypatch.setitem(post.PIXELS_AT_ONCE, "cpu", at_once * 96 * 128)
    monkeypatch.setattr(post, "enlarge", lambda few, *others: enlarged.append(len(few)) or whole(few, *others))
    found = post.scored(logits, iou, FRAME, 32, 1.0)
    assert enlarged == [at_once] * (6 // at_once)
    assert found.masks == post.encode(logits, FRAME, 32)
    assert found.predicted_iou == iou.tolist()
    expected = post.stability_of(whole(logits, FRAME, 32), 1.0)
    torch.testing.assert_close(torch.tensor(found.stability), expected, rtol=0, atol=0, equal_nan=True)
    assert np.isnan(found.stability[4])


def test_masks_of_a_crop_lie_in_the_image():
    frame = Frame(side_px=128, input_size=(128, 128), crop=(10, 20, 42, 52), image_size=(60, 80))
    logits = torch.full((1, 32, 32), -5.0)
    logits[:, 8:16, 8:24] = 5
    [rle] = post.encode(logits, frame, 32)
    mask = decode_masks([rle])[0]
    # A cell is one pixel of the crop.
    assert np.argwhere(mask).min(axis=0).tolist() == [28, 18]
    assert np.argwhere(mask).max(axis=0).tolist() == [35, 33]
    assert mask.sum() == 8 * 16
    [box] = post.measure(logits, torch.ones(1), frame, 32, OPTIONS).boxes_N4.tolist() or [None]
    assert box is None  # within 20 px of the crop's edge, which is no edge of the image


def test_a_threshold_of_0_lets_every_mask_pass():
    iou = torch.tensor([-0.1, 0.5, 0.6])
    assert post.passing(iou, OPTIONS).tolist() == [False, False, True]
    assert post.passing(iou, SimpleNamespace(pred_iou_thresh=0)).all()


# Small regions.


def drawn(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def test_small_holes_are_filled_and_large_ones_stay():
    mask = drawn("#######", "#.#...#", "#.#...#", "#######")
    expected = drawn("#######", "###...#", "###...#", "#######")
    assert np.array_equal(post.without_holes(mask, OPTIONS), expected)
    assert post.without_holes(expected, OPTIONS) is expected


def test_small_islands_go_and_corners_connect():
    mask = drawn("#...##", ".#...#", "..#...", "......")
    assert np.array_equal(post.without_islands(mask, OPTIONS), mask)
    assert np.array_equal(
        post.without_islands(drawn("#...##", ".#....", "..#..."), OPTIONS), drawn("#.....", ".#....", "..#...")
    )


def test_the_largest_island_stays_where_all_are_small():
    assert np.array_equal(post.without_islands(drawn("#..##"), OPTIONS), drawn("...##"))


def test_an_empty_mask_stays_empty():
    empty = np.zeros((2, 30), bool)
    assert post.without_islands(empty, OPTIONS) is empty


# Points and crops.


def test_crops_and_grids():
    crops = crops_of((60, 100), 1, 0.2)
    assert crops[0].box == (0, 0, 100, 60)
    assert [crop.layer for crop in crops] == [0, 1, 1, 1, 1]
    # 12 px (0.2 x 60) of overlap: (100 + 12) / 2 wide, (60 + 12) / 2 high.
    assert crops[4].box == (44, 24, 100, 60)
    assert crops[4].cut(np.zeros((60, 100, 3), np.uint8)).shape == (36, 56, 3)
    assert [len(grid) for grid in grids(4, 1, 2)] == [16, 4]
    assert points_in(grids(2, 0, 1)[0], (60, 100)).tolist() == [[25, 15], [75, 15], [25, 45], [75, 45]]
