"""Training items: crops by value, masks that lose nothing."""

import math
import random

import numpy as np
import pytest
import torch
from drawn_pairs import image_of, mask_of

from ovseg_model.region_augmentation import (
    Augmentation,
    crop_box_xywh,
    draw_crop_xywh,
    image_item,
    region_item,
    seeded_randoms,
)
from ovseg_model.regions import RegionOptions, covering_mask, normalise, region_batch, region_masks
from schemas import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.25, 0.2)
FILL = [255 * value for value in MEAN]


def test_an_item_is_the_region_that_the_miner_scores():
    image_HW3, mask_HW = image_of(0), mask_of(3)
    for options in (RegionOptions(), RegionOptions(expand_ratio=1.5), RegionOptions(antialias=False)):
        region_3SS, mask_SS = region_item(image_HW3, mask_HW, 16, FILL, options)
        wanted = region_batch(image_HW3, mask_HW[None], 16, MEAN, STD, options)
        assert torch.equal(normalise(region_3SS[None], MEAN, STD), wanted)
        assert mask_SS.dtype == torch.bool
        assert torch.equal(mask_SS, region_masks(mask_HW[None], 16, options)[0])


def test_crops_have_the_area_and_ratio_that_were_asked_for():
    augmentation = Augmentation(scale=(0.5, 0.8), ratio=(0.7, 1.6))
    randoms = random.Random(0)
    drawn = [draw_crop_xywh(100, 240, augmentation, randoms) for _ in range(300)]
    for x, y, w, h in drawn:
        assert 0 <= x <= 240 - w
        assert 0 <= y <= 100 - h
        assert 0.49 < w * h / 24_000 < 0.81
        assert 0.69 < (w / 240) / (h / 100) < 1.62  # in the square that the frame is stretched to
    assert len(set(drawn)) > 250
    assert draw_crop_xywh(7, 5, Augmentation((1, 1), (1, 1)), randoms) == (0, 0, 5, 7)


@pytest.mark.parametrize(("height", "width"), [(50, 200), (200, 50), (90, 97)])
def test_a_long_region_keeps_its_area_and_varies(height, width):
    """In its own frame a crop of 3 : 4 to 4 : 3 would be the same centre piece every time."""
    drawn = [draw_crop_xywh(height, width, Augmentation(), random.Random(seed)) for seed in range(50)]
    assert all(0.88 < w * h / (height * width) <= 1 for _, _, w, h in drawn)
    assert len(set(drawn)) > 25


def test_the_crop_of_a_square_is_torchvisions():
    """Equal means over many draws, by the same rule from other random numbers."""
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(torch.empty(3, 200, 200), (0.9, 1), (3 / 4, 4 / 3)) for _ in range(3000)]
    )
    ours = np.array([draw_crop_xywh(200, 200, Augmentation(), random.Random(seed)) for seed in range(3000)])
    for column, other in ((0, 1), (1, 0), (2, 3), (3, 2)):  # x, y, w, h beside top, left, h, w
        assert abs(ours[:, column].mean() - theirs[:, other].mean()) < 0.5
        assert abs(ours[:, column].std() - theirs[:, other].std()) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_regions(size):
    x, y, w, h = draw_crop_xywh(*size, Augmentation((0.01, 0.02)), random.Random(1))
    assert 0 <= x < x + w <= size[1]
    assert 0 <= y < y + h <= size[0]
    assert draw_crop_xywh(10, 20, Augmentation((1, 1), (2, 4)), random.Random(1)) == (0, 2, 20, 5)
    assert draw_crop_xywh(10, 20, Augmentation((1, 1), (0.25, 0.5)), random.Random(1)) == (5, 0, 10, 10)


def test_a_crop_of_region_and_mask_is_one_crop():
    image_HW3, mask_HW = image_of(1), mask_of(9)
    augmentation = Augmentation(scale=(0.6, 0.7))
    region_3SS, mask_SS = region_item(image_HW3, mask_HW, 20, FILL, RegionOptions(), augmentation, random.Random(4))
    ys, xs = np.nonzero(mask_HW)
    tight = int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
    x, y, w, h = crop_box_xywh(mask_HW, tight, augmentation, random.Random(4))
    assert 0.55 < w * h / (tight[2] * tight[3]) < 0.75
    # Drawn again by hand: filled pixels, cut, resized.
    filled_3HW = torch.from_numpy(np.where(mask_HW, image_HW3.transpose(2, 0, 1), np.reshape(FILL, (3, 1, 1))))
    cut_3hw = filled_3HW[:, y : y + h, x : x + w].float()
    whole = np.ones((h, w), bool)
    wanted, _ = region_item(cut_3hw.round().byte().permute(1, 2, 0).numpy(), whole, 20, FILL, RegionOptions())
    assert float((region_3SS - wanted).abs().max()) < 1  # the fill is rounded there
    assert torch.equal(mask_SS, covering_mask(mask_HW[y : y + h, x : x + w], 20))


def test_a_crop_that_would_show_fill_only_is_not_taken():
    mask_HW = np.zeros((10, 60), bool)
    mask_HW[:, 0] = mask_HW[:, -1] = True
    small = Augmentation((0.2, 0.25))
    x, y, w, h = draw_crop_xywh(10, 60, small, random.Random(3))
    assert not mask_HW[y : y + h, x : x + w].any()
    assert crop_box_xywh(mask_HW, (0, 0, 60, 10), small, random.Random(3)) == (0, 0, 60, 10)


def test_a_thin_part_survives_shrinking():
    mask_hw = np.zeros((100, 90), bool)
    mask_hw[:, 41] = True
    framed_hw = mask_hw.copy()
    framed_hw[0, 0] = framed_hw[-1, -1] = True
    assert region_masks(framed_hw[None], 8, RegionOptions())[0, 1:, 3].all()  # nearest neighbours lose it
    assert covering_mask(mask_hw, 8).nonzero()[:, 1].unique().tolist() == [3]
    mask_hw[:, 45] = True  # the line between two output pixels is at 45
    assert covering_mask(mask_hw, 8).nonzero()[:, 1].unique().tolist() == [3, 4]
    assert covering_mask(np.array([[True, False]]), 4).tolist() == [[True, True, False, False]] * 4


@pytest.mark.parametrize(("height", "width"), [(3, 7), (16, 5), (23, 23), (64, 50)])
def test_an_output_pixel_is_foreground_if_it_overlaps_any(height, width):
    mask_hw = np.random.default_rng(height).random((height, width)) < 0.05
    size = 8
    wanted = np.zeros((size, size), bool)
    for y in range(size):
        for x in range(size):
            rows = slice(y * height // size, math.ceil((y + 1) * height / size))
            columns = slice(x * width // size, math.ceil((x + 1) * width / size))
            wanted[y, x] = mask_hw[rows, columns].any()
    assert np.array_equal(covering_mask(mask_hw, size).numpy(), wanted)


def test_a_whole_image_is_padded_to_a_square_with_its_mask():
    image_HW3 = np.full((8, 16, 3), 200, np.uint8)
    mask_HW = np.zeros((8, 16), bool)
    mask_HW[0, 0] = mask_HW[7, 15] = True
    region_3SS, mask_SS = image_item(image_HW3, mask_HW, 16, [10, 20, 30], RegionOptions())
    assert region_3SS[:, :4].unique(dim=1).flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]
    assert torch.equal(region_3SS[:, 4:12], torch.full((3, 8, 16), 200.0))
    assert mask_SS.nonzero().tolist() == [[4, 0], [11, 15]]
    tall_3SS, tall_SS = image_item(image_HW3.transpose(1, 0, 2), mask_HW.T, 8, [10, 20, 30], RegionOptions())
    assert tall_SS.nonzero().tolist() == [[0, 2], [7, 5]]
    # Shrunk, the image's edges overshoot a little beside the padding.
    assert float((tall_3SS[:, :, 3:5] - 200).abs().max()) < 4


def test_random_numbers_belong_to_seed_epoch_and_pair():
    first = seeded_randoms(0, 1, "ab").random()
    assert first == seeded_randoms(0, 1, "ab").random()
    others = {seeded_randoms(*key).random() for key in ((1, 1, "ab"), (0, 2, "ab"), (0, 1, "ac"))}
    assert first not in others
    assert len(others) == 3


def test_impossible_crops_are_refused():
    for values in ({"scale": (0.9, 1.1)}, {"scale": (0.9, 0.8)}, {"ratio": (0, 1)}, {"ratio": (2, 1)}):
        with pytest.raises(UserError, match="in ascending order"):
            Augmentation(**values)
