"""The masked region: boxes by hand, pixels against PIL and against OVSeg's own order of steps."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_model.regions import (
    RegionOptions,
    _of_channels,
    cut_region,
    expand_boxes_xywh,
    mask_boxes_xywh,
    normalise,
    region_batch,
    region_boxes_xywh,
    region_masks,
    resize_region,
)
from schemas.errors import UserError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
OVSEG = RegionOptions(antialias=False)

DRAWN = """
......
.##...
..##..
......
"""
"""A mask of 4 x 6 pixels: its tight box is x 1, y 1, 3 wide, 2 high."""


def draw(text: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in line] for line in text.split()])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blob(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((x - width / 2) / (width / 3)) ** 2 + ((y - height / 2) / (height / 2.5)) ** 2 < 1


def denormalise(regions: torch.Tensor) -> torch.Tensor:
    """Back to 0..255."""
    return (regions * torch.tensor(STD).reshape(3, 1, 1) + torch.tensor(MEAN).reshape(3, 1, 1)) * 255


def test_boxes_are_tight():
    corner, full = np.zeros((4, 6), bool), np.ones((4, 6), bool)
    corner[3, 5] = True
    boxes = mask_boxes_xywh(np.stack([draw(DRAWN), corner, full]))
    assert boxes.tolist() == [[1, 1, 3, 2], [5, 3, 1, 1], [0, 0, 6, 4]]


def test_a_box_spans_separate_parts():
    assert mask_boxes_xywh(draw("#.... ..... ...#. .....")[None]).tolist() == [[0, 0, 4, 3]]


def test_no_masks_have_no_boxes():
    assert mask_boxes_xywh(np.zeros((0, 4, 6), bool)).shape == (0, 4)
    assert region_batch(noise(4, 6), np.zeros((0, 4, 6), bool), 8, MEAN, STD, OVSEG).shape == (0, 3, 8, 8)


def test_an_empty_mask_is_named():
    with pytest.raises(ValueError, match="mask 1 of 2: wanted at least one pixel, got none"):
        mask_boxes_xywh(np.stack([draw(DRAWN), np.zeros((4, 6), bool)]))


@pytest.mark.parametrize("masks", [np.zeros((4, 6), bool), np.zeros((1, 4, 6), np.uint8)])
def test_masks_of_another_form_are_refused(masks):
    with pytest.raises(ValueError, match=r"masks: wanted bool \(N, H, W\), got"):
        mask_boxes_xywh(masks)


def test_expansion_about_the_centre_truncates_and_clips():
    boxes = np.array([[10, 20, 5, 4], [0, 0, 4, 4], [95, 40, 5, 10]])
    # 10+2.5-5=7.5 -> 7, 17.5 -> 17; 22-4=18, 26. The second and third reach over the borders of 50 x 100 pixels.
    assert expand_boxes_xywh(boxes, 2.0, 50, 100).tolist() == [[7, 18, 10, 8], [0, 0, 6, 6], [92, 35, 8, 15]]


def test_ratio_one_keeps_every_box():
    boxes = np.array([[x, y, w, h] for x in (0, 1, 7) for y in (0, 3) for w in (1, 2, 5) for h in (1, 4)])
    assert np.array_equal(expand_boxes_xywh(boxes, 1.0, 8, 12), boxes)


def test_cut_region_by_hand():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    region = cut_region(image, draw(DRAWN), (1, 1, 3, 2), (0.5, 1.5, 2.5))
    # Pixel (y, x) holds 18 y + 3 x in red, one more in green, two more in blue.
    assert region[0].tolist() == [[21, 24, 0.5], [0.5, 42, 45]]
    assert region[1].tolist() == [[22, 25, 1.5], [1.5, 43, 46]]
    assert region[2].tolist() == [[23, 26, 2.5], [2.5, 44, 47]]
    assert region.dtype == torch.float32


def test_a_region_of_the_models_size_is_only_normalised():
    image = noise(8, 8)
    full = np.ones((1, 8, 8), bool)
    wanted = torch.from_numpy(image).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]
    wanted = wanted / torch.tensor(STD)[:, None, None]
    for options in (RegionOptions(), OVSEG):
        assert torch.allclose(region_batch(image, full, 8, MEAN, STD, options)[0], wanted, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(97, 61), (20, 30), (300, 40)])
def test_antialiased_regions_equal_pil(height, width):
    image, mask = noise(height, width), blob(height, width)
    x, y, w, h = mask_boxes_xywh(mask[None])[0]
    filled = np.where(mask[:, :, None], image, np.round(255 * np.array(MEAN)).astype(np.uint8))[y : y + h, x : x + w]
    wanted = np.asarray(Image.fromarray(filled).resize((48, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    ours = denormalise(region_batch(image, mask[None], 48, MEAN, STD, RegionOptions())[0]).numpy()
    # One grey level for PIL's rounding between its two passes, half a level for the rounded fill.
    assert np.abs(ours - wanted).max() <= 1.6
    assert np.abs(ours - wanted).mean() < 0.35


def test_without_antialiasing_regions_equal_ovsegs_order_of_steps():
    image, mask = noise(90, 70), blob(90, 70)
    x, y, w, h = mask_boxes_xywh(mask[None])[0]
    fill = 255 * torch.tensor(MEAN)[:, None, None]
    pixels, kept = torch.from_numpy(image).permute(2, 0, 1).float(), torch.from_numpy(mask).float()
    crop = (pixels * kept + (1 - kept) * fill)[:, y : y + h, x : x + w]
    normalised = (crop / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    wanted = torch.nn.functional.interpolate(normalised[None], (48, 48), mode="bicubic", align_corners=False)
    ours = region_batch(image, mask[None], 48, MEAN, STD, OVSEG)
    assert torch.allclose(ours, wanted, atol=2e-5)
    assert denormalise(ours).max() > 256  # nothing was clipped


def test_antialiasing_changes_a_region_that_shrinks():
    image, mask = noise(90, 70), np.ones((1, 90, 70), bool)
    smooth, sharp = (region_batch(image, mask, 16, MEAN, STD, options) for options in (RegionOptions(), OVSEG))
    assert smooth.std() < 0.6 * sharp.std()
    assert denormalise(smooth).min() + 1e-3 >= 0 and denormalise(smooth).max() <= 255.001


@pytest.mark.parametrize("options", [RegionOptions(), OVSEG])
def test_the_background_is_zero_for_the_model(options):
    mask = np.zeros((1, 40, 40), bool)
    mask[0, :5, :5] = mask[0, 39, 39] = True
    region = region_batch(noise(40, 40), mask, 40, MEAN, STD, options)[0]
    assert region[:, 10:30, 10:30].abs().max() < 1e-6
    assert region[:, :5, :5].abs().max() > 0.5


def test_zero_fill_is_black():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 0, 0] = mask[0, 39, 39] = True
    region = region_batch(noise(40, 40), mask, 40, MEAN, STD, RegionOptions(fill="zero"))
    assert denormalise(region)[0, :, 10:30, 10:30].abs().max() < 1e-3


@pytest.mark.parametrize("options", [RegionOptions(), OVSEG])
def test_a_mask_of_one_pixel_fills_the_region_with_its_colour(options):
    image, mask = noise(5, 7), np.zeros((1, 5, 7), bool)
    mask[0, 4, 6] = True
    region = denormalise(region_batch(image, mask, 12, MEAN, STD, options)[0])
    wanted = torch.from_numpy(image[4, 6]).float().reshape(3, 1, 1).expand(3, 12, 12)
    assert torch.allclose(region, wanted, atol=1e-3)


def test_a_region_does_not_depend_on_the_other_masks():
    image = noise(60, 50)
    masks = np.stack([blob(60, 50), np.ones((60, 50), bool), np.eye(60, 50, dtype=bool)])
    together = region_batch(image, masks, 24, MEAN, STD, RegionOptions(expand_ratio=1.3))
    alone = [region_batch(image, masks[i : i + 1], 24, MEAN, STD, RegionOptions(expand_ratio=1.3)) for i in (0, 1, 2)]
    assert torch.equal(together, torch.cat(alone))


def test_expansion_shows_more_background():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 10:20, 10:20] = True
    expanded = RegionOptions(expand_ratio=2.0)
    assert region_boxes_xywh(mask, expanded).tolist() == [[5, 5, 20, 20]]
    region = region_batch(noise(40, 40), mask, 20, MEAN, STD, expanded)[0]
    assert torch.equal(region.abs().amax(0) > 1e-6, torch.from_numpy(mask[0, 5:25, 5:25]))


def test_the_image_is_neither_changed_nor_kept():
    image = noise(9, 9)
    before = image.copy()
    region = region_batch(image, np.ones((1, 9, 9), bool), 9, MEAN, STD, RegionOptions())
    kept = region.clone()
    assert np.array_equal(image, before)
    image[:] = 0
    assert torch.equal(region, kept)


def test_resize_clips_only_when_antialiased():
    edge = torch.zeros(3, 4, 4)
    edge[:, :, 2:] = 255
    assert (resize_region(edge, 8, True).min(), resize_region(edge, 8, True).max()) == (0, 255)
    assert resize_region(edge, 8, False).min() < -5 and resize_region(edge, 8, False).max() > 260


def test_region_masks_share_the_regions_frame():
    wanted = draw("####.. ####.. ####.. ..#### ..#### ..####")
    masks = region_masks(draw(DRAWN)[None], 6, RegionOptions())
    assert masks.dtype == torch.bool
    assert torch.equal(masks[0], torch.from_numpy(wanted))


@pytest.mark.parametrize(
    ("image", "masks", "message"),
    [
        (
            np.zeros((4, 6, 3), np.float32),
            np.ones((1, 4, 6), bool),
            r"image: wanted RGB uint8 \(H, W, 3\), got float32",
        ),
        (np.zeros((4, 6), np.uint8), np.ones((1, 4, 6), bool), r"got uint8 \(4, 6\)"),
        (
            np.zeros((4, 6, 3), np.uint8),
            np.ones((1, 6, 4), bool),
            r"wanted \(H, W\) \(4, 6\) as the image, got \(6, 4\)",
        ),
    ],
)
def test_frames_that_differ_are_refused(image, masks, message):
    with pytest.raises(ValueError, match=message):
        region_batch(image, masks, 8, MEAN, STD, RegionOptions())


@pytest.mark.parametrize("ratio", [0.9, 0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_cuts_the_mask_is_refused(ratio):
    with pytest.raises(UserError, match=r"expand_ratio: wanted 1 or more \(1 is the mask's tight box\), got"):
        RegionOptions(expand_ratio=ratio)


def test_an_unknown_fill_is_refused():
    with pytest.raises(UserError, match="fill: wanted one of mean, zero, got 'grey'"):
        RegionOptions(fill="grey")


def test_mean_and_deviation_are_sent_to_a_device_once_and_serve_training_too():
    _of_channels.cache_clear()
    with torch.inference_mode():
        first = normalise(torch.full((1, 3, 2, 2), 51, dtype=torch.uint8), (0.1, 0.2, 0.4), (0.5, 1.0, 2.0))
    assert torch.allclose(first[0, :, 0, 0], torch.tensor([0.2, 0.0, -0.1]), atol=1e-7)
    assert _of_channels.cache_info().misses == 2
    assert torch.equal(normalise(torch.full((1, 3, 2, 2), 51.0), [0.1, 0.2, 0.4], [0.5, 1.0, 2.0]), first)
    assert _of_channels.cache_info().misses == 2
    assert not _of_channels((0.1, 0.2, 0.4), torch.device("cpu")).is_inference()
