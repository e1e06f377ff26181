"""Everything-mode equals SamAutomaticMaskGenerator of segment-anything on tiny SAMs; batches, memory, boxes, precision."""

import sys
import types

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from tiny_sam import drawn_image, tiny_sam, write_tiny_sam

from ovseg_model.proposals.generator import ImageInput, open_generator, resolve_generator
from ovseg_model.rle import areas_px, decode_masks, iou_matrix

IMAGES = {
    "landscape": drawn_image(90, 120),
    "portrait, grey": drawn_image(160, 64, 1, grey=True),
    "larger than it is read": drawn_image(200, 333, 2),
    "tiny": drawn_image(7, 11, 3),
}
THRESHOLDS = {"pred_iou_thresh": 0.45, "stability_score_thresh": 0.5, "stability_score_offset": 0.2}
OPTIONS = {"points_per_side": 8, "points_per_batch": 12, **THRESHOLDS}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_sam(tmp_path_factory.mktemp("sam") / "tiny.pth")


def named(name):
    return ImageInput(name, f"{name}.png", IMAGES[name])


def opened(checkpoint, **options):
    return open_generator(resolve_generator("sam", {"checkpoint": str(checkpoint), **OPTIONS, **options}, "cpu", ""))


def theirs(image, **options):
    generator = SamAutomaticMaskGenerator(tiny_sam(), output_mode="coco_rle", **OPTIONS, **options)
    return [found for found in generator.generate(image) if found["area"]]


def assert_equal(ours, theirs, least=1):
    assert len(ours.masks) == len(theirs) >= least
    assert all(iou_matrix([mask], [other["segmentation"]])[0, 0] >= 0.9999 for mask, other in zip(ours.masks, theirs))
    expected = [min(max(other["predicted_iou"], 0), 1) for other in theirs]
    np.testing.assert_allclose(ours.predicted_iou, expected, atol=1e-4)
    np.testing.assert_allclose(ours.stability, [other["stability_score"] for other in theirs], atol=1e-4)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("layers", [0, 1])
def test_masks_are_those_of_segment_anything_in_its_order(checkpoint, name, layers):
    expected = theirs(IMAGES[name], crop_n_layers=layers)
    [found] = opened(checkpoint, crop_n_layers=layers).propose([named(name)])
    print(name, layers, len(expected), [e['area'] for e in expected])
    assert_equal(found, expected, least=1)
