"""The felzenszwalb generator on drawn images: exact masks, order, duplicates, and nothing to find."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ovseg_model.proposals.felzenszwalb import (
    Felzenszwalb,
    FelzenszwalbOptions,
    choose_regions,
    enlarge_labels,
    segment_scales,
    shrink,
)
from ovseg_model.proposals.generator import ImageInput, ProposalError, propose_in_batches, resolve_generator
from ovseg_model.rle import areas_px, boxes_xywh_px, decode_masks, encode_masks
from schemas.errors import UserError

OPTIONS = FelzenszwalbOptions(sigma_px=0.0)


def flag(height: int = 60, width: int = 90) -> np.ndarray:
    """Three stripes, red, white and blue, of 1/2, 1/3 and 1/6 of the width."""
    pixels_HW3 = np.zeros((height, width, 3), np.uint8)
    pixels_HW3[:, : width // 2] = (200, 0, 0)
    pixels_HW3[:, width // 2 : width * 5 // 6] = 255
    pixels_HW3[:, width * 5 // 6 :] = (0, 0, 200)
    return pixels_HW3


def propose(pixels_HW3: np.ndarray, options: FelzenszwalbOptions = OPTIONS):
    return propose_in_batches(Felzenszwalb(options), [ImageInput("a", "a.png", pixels_HW3)])[0]


def strips(*widths: tuple[int, int]) -> list:
    """Masks of 1 x 100 pixels, each from a start to an end."""
    masks_NHW = np.zeros((len(widths), 1, 100), bool)
    for mask_HW, (start, end) in zip(masks_NHW, widths, strict=True):
        mask_HW[:, start:end] = True
    return encode_masks(masks_NHW)


def test_stripes_are_found_once_and_largest_first():
    proposals = propose(flag())
    assert boxes_xywh_px(proposals.masks).tolist() == [[0, 0, 45, 60], [45, 0, 30, 60], [75, 0, 15, 60]]
    assert areas_px(proposals.masks).tolist() == [2700, 1800, 900]
    assert proposals.stability == [1.0, 1.0, 1.0]
    assert proposals.predicted_iou is None


def test_grey_image_works():
    grey = np.repeat(flag().max(axis=2, keepdims=True) // np.uint8(2), 3, axis=2)
    grey[:, 75:] = 10
    assert areas_px(propose(grey).masks).tolist() == [2700, 1800, 900]


def test_large_image_is_segmented_small_and_masked_exactly():
    proposals = propose(flag(240, 360), dataclasses.replace(OPTIONS, max_side_px=90))
    assert [mask["size"] for mask in proposals.masks] == [[240, 360]] * 3
    np.testing.assert_array_equal(decode_masks(proposals.masks)[0], flag(240, 360)[..., 0] == 200)


def test_one_scale_has_no_stability():
    assert propose(flag(), dataclasses.replace(OPTIONS, scales=(200.0,))).stability is None


def test_max_masks_keeps_the_largest():
    proposals = propose(flag(), dataclasses.replace(OPTIONS, max_masks=2))
    assert areas_px(proposals.masks).tolist() == [2700, 1800]
    assert len(proposals.stability) == 2


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 40), (40, 1), (50, 60), (1, 2000)])
def test_image_of_one_colour_has_no_masks(shape):
    outcome = propose(np.full((*shape, 3), 90, np.uint8), FelzenszwalbOptions())
    assert outcome == ProposalError("no_masks", "no segment is smaller than max_area_fraction of the image")


def test_one_colour_is_a_mask_when_asked_for():
    whole = dataclasses.replace(OPTIONS, max_area_fraction=1.0)
    assert areas_px(propose(np.zeros((2, 2, 3), np.uint8), whole).masks).tolist() == [4]


def test_noise_gives_the_same_masks_twice():
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    assert propose(noise) == propose(noise)
    assert len(propose(noise).masks) > 3


def test_segments_of_each_scale_cover_the_image():
    noise = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    label_maps = segment_scales(noise, OPTIONS)
    assert len(label_maps) == len(OPTIONS.scales)
    for labels_HW in label_maps:
        assert labels_HW.shape == (40, 50)
        assert np.unique(labels_HW).tolist() == list(range(labels_HW.max() + 1))


def test_choice_is_by_area_and_ties_go_to_the_earlier():
    regions = [strips((0, 10), (10, 30)), strips((30, 50), (50, 90))]
    chosen, stability = choose_regions(regions, 100, OPTIONS)
    assert chosen.tolist() == [3, 1, 2, 0]
    assert stability.tolist() == [0, 0, 0, 0]


def test_near_duplicates_lose_to_the_larger():
    regions = [strips((0, 39), (39, 60)), strips((0, 40))]
    chosen, stability = choose_regions(regions, 100, OPTIONS)
    assert chosen.tolist() == [2, 1]
    np.testing.assert_allclose(stability, [39 / 40, 1 / 60])


def test_duplicate_iou_is_inclusive():
    regions = [strips((0, 10)), strips((0, 8))]
    assert choose_regions(regions, 100, OPTIONS)[0].tolist() == [0]
    assert choose_regions(regions, 100, dataclasses.replace(OPTIONS, duplicate_iou=0.81))[0].tolist() == [
        0,
        1,
    ]


def test_region_of_the_whole_picture_is_left_out():
    regions = [strips((0, 95)), strips((0, 96))]
    assert choose_regions(regions, 100, OPTIONS)[0].tolist() == [0]


def test_shrink_averages_and_keeps_small_images():
    pixels_HW3 = np.zeros((20, 40, 3), np.uint8)
    pixels_HW3[:, ::2] = 100
    assert shrink(pixels_HW3, 40) is pixels_HW3
    np.testing.assert_array_equal(shrink(pixels_HW3, 20), np.full((10, 20, 3), 50))
    assert shrink(np.zeros((1, 500, 3), np.uint8), 16).shape == (1, 16, 3)


def test_labels_are_enlarged_by_nearest_neighbour():
    enlarged = enlarge_labels(np.array([[1, 2], [3, 4]]), (3, 5))
    assert enlarged.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 4, 4]]


def test_no_scale_is_a_users_mistake():
    with pytest.raises(UserError, match="option scales wants at least one number; got none"):
        resolve_generator("felzenszwalb", {"scales": ""}, "cpu", "")


def test_photograph_has_plausible_masks(test_data):
    path = sorted((test_data / "coco_sample" / "images").iterdir())[0]
    with Image.open(path) as photograph:
        pixels_HW3 = np.asarray(photograph.convert("RGB"))
    proposals = propose(pixels_HW3, FelzenszwalbOptions())
    areas = areas_px(proposals.masks)
    assert 20 <= len(areas) <= 100
    assert (np.diff(areas) <= pixels_HW3[..., 0].size * 0.001).all()
    assert areas.max() <= 0.96 * pixels_HW3[..., 0].size
    assert all(0 <= value <= 1 for value in proposals.stability)
