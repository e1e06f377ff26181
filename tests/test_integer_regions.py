"""Regions in whole grey levels, against PIL and the image that is copied, filled, cropped and resized."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_model.integer_regions import (
    bicubic_weights,
    check_way,
    cut_masks,
    device_regions,
    fill_levels,
    near_regions,
    pil_regions,
    send_cut_masks,
    send_masks,
)
from ovseg_model.regions import RegionOptions, expand_boxes_xywh, mask_boxes_xywh
from schemas import UserError

MEAN = (0.481, 0.458, 0.408)
OPTIONS = RegionOptions()


def scene(height, width, seed=0):
    """Sharp noise, and masks: a box, everything, a pixel, a line, two far corners."""
    masks = np.zeros((5, height, width), bool)
    masks[0, height // 4 : height // 2, width // 3 : width - 2] = True
    masks[1] = True
    masks[2, height // 2, width // 2] = masks[3, 3] = masks[4, 0, 0] = masks[4, -1, -1] = True
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), masks


def by_pil(image, masks, size, options=OPTIONS):
    """Copy, fill, crop, resize: what everybody writes."""
    regions = []
    boxes = expand_boxes_xywh(mask_boxes_xywh(masks), options.expand_ratio, *image.shape[:2])
    for mask, (x, y, width, height) in zip(masks, boxes.tolist(), strict=True):
        filled = image.copy()
        filled[~mask] = np.round(255 * np.array(MEAN)) if options.fill == "mean" else 0
        crop = Image.fromarray(filled[y : y + height, x : x + width])
        regions.append(np.array(crop.resize((size, size), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(regions)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(97, 61), (20, 30), (150, 40)])
@pytest.mark.parametrize("options", [OPTIONS, RegionOptions(expand_ratio=1.5, fill="zero")])
def test_exact_regions_are_pils_byte_for_byte(height, width, options, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    image, masks = scene(height, width)
    found = pil_regions(image, masks, 32, MEAN, options)
    assert found.dtype == torch.uint8
    assert torch.equal(found, by_pil(image, masks, 32, options))
    assert pil_regions(image, masks[:0], 32, MEAN, options).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(97, 61), (20, 30), (150, 40)])
def test_near_regions_are_off_by_two_levels_at_most(height, width):
    image, masks = scene(height, width)
    off = (near_regions(image, masks, 32, MEAN, OPTIONS).int() - by_pil(image, masks, 32).int()).abs()
    assert off.max() <= 2
    assert off.float().mean() < 0.05


@pytest.mark.parametrize("most_px", [1, 3000, 10**7])
@pytest.mark.parametrize("options", [OPTIONS, RegionOptions(expand_ratio=1.5, fill="zero")])
def test_regions_of_several_images_at_once_are_off_by_a_level_here_and_there(most_px, options):
    scenes = [scene(97, 61), scene(20, 30, seed=1), scene(150, 40, seed=2)]
    sent = [send_masks(image, masks, options, "cpu") for image, masks in scenes]
    found = device_regions(sent, 32, fill_levels(MEAN, options), most_px)
    wanted = torch.cat([by_pil(image, masks, 32, options) for image, masks in scenes])
    off = (found.int() - wanted.int()).abs()
    assert found.shape == (15, 3, 32, 32)
    assert off.max() <= 2
    assert off.float().mean() < 1e-3


def test_no_mask_is_no_region():
    image, masks = scene(20, 30)
    sent = [send_masks(image, masks[:0], OPTIONS, "cpu"), send_masks(image, masks[:1], OPTIONS, "cpu")]
    assert device_regions(sent, 16, fill_levels(MEAN, OPTIONS)).shape == (1, 3, 16, 16)


def test_pieces_of_an_image_are_sent_as_the_image_with_all_its_masks():
    image, masks = scene(97, 61)
    pieces = [cut_masks(image, part, OPTIONS) for part in (masks[:2], masks[:0], masks[2:])]
    found, wanted = send_cut_masks(pieces, "cpu"), send_masks(image, masks, OPTIONS, "cpu")
    assert found.width == wanted.width == 61
    assert np.array_equal(found.boxes_N4, wanted.boxes_N4)
    for ours, whole in ((found.pixels_P3, wanted.pixels_P3), (found.masks_P, wanted.masks_P)):
        assert torch.equal(ours, whole)


def test_weights_are_a_kernel_that_sums_to_one():
    weights = bicubic_weights(torch.tensor([4, 8]), 8, 4)
    assert weights.shape == (2, 4, 8)
    assert torch.allclose(weights.sum(dim=2), torch.ones(2, 4))
    assert torch.equal(weights[0, :, :4], torch.eye(4))  # its own size
    assert (weights[0, :, 4:] == 0).all()
    # Half size: the kernel at distances 0.25, 0.75, 1.25 and 1.75 on both sides, over their sum.
    kernel = np.array([-0.0234375, -0.0703125, 0.2265625, 0.8671875])
    wanted = np.concatenate([kernel, kernel[::-1]]) / (2 * kernel.sum())
    assert np.allclose(weights[1, 1, :7], wanted[1:] / wanted[1:].sum(), atol=1e-6)


def test_the_fill_is_rounded():
    assert fill_levels((0.481, 0.458, 0.408), OPTIONS).tolist() == [123, 117, 104]
    assert fill_levels(MEAN, RegionOptions(fill="zero")).tolist() == [0, 0, 0]


def test_what_is_refused():
    check_way("float", RegionOptions(antialias=False))
    with pytest.raises(UserError, match="--regions: wanted one of float, exact, near, got 'pil'"):
        check_way("pil", OPTIONS)
    with pytest.raises(UserError, match="--regions exact: follows PIL's antialiased resize"):
        check_way("exact", RegionOptions(antialias=False))
    image, masks = scene(20, 30)
    for make in (pil_regions, near_regions):
        with pytest.raises(ValueError, match=r"masks: wanted \(H, W\) \(20, 30\)"):
            make(image, masks[:, 1:], 8, MEAN, OPTIONS)
    with pytest.raises(ValueError, match=r"masks: wanted \(H, W\) \(20, 30\)"):
        send_masks(image, masks[:, 1:], OPTIONS, "cpu")
