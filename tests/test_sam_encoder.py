"""SAM's encoder: its attention equals segment-anything's however it is cut, and images are read as it reads them."""

import copy

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from tiny_sam import SIDE_PX, drawn_image, tiny_sam

from ovseg_model.proposals import sam_encoder
from ovseg_model.proposals.sam_encoder import FastViT, ImageReader, RelativeAttention


@pytest.mark.parametrize("queries", [7, 64, 1000])
def test_attention_is_segment_anythings_however_it_is_cut(monkeypatch, queries):
    monkeypatch.setattr(sam_encoder, "QUERIES", queries)
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, use_rel_pos=True, input_size=(8, 8)).requires_grad_(False)
    attention.rel_pos_h.normal_()
    attention.rel_pos_w.normal_()
    tokens = torch.randn(2, 8, 8, 24)
    torch.testing.assert_close(RelativeAttention(attention)(tokens), attention(tokens))


@pytest.mark.parametrize("tokens", [8, 5, 11])
def test_relative_positions_are_segment_anythings_of_any_size(tokens):
    table = torch.randn(15, 6, generator=torch.manual_seed(0))
    places = sam_encoder.places_of(table)
    assert places[0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    found = sam_encoder.relative_positions(tokens, table, places)
    assert torch.equal(found, get_rel_pos(tokens, tokens, table))


def test_places_are_made_once_and_are_no_weights(monkeypatch):
    vit = FastViT(tiny_sam().image_encoder, torch.float32)
    monkeypatch.setattr(sam_encoder, "get_rel_pos", lambda *_: pytest.fail("made again"))
    vit(torch.zeros(1, 3, SIDE_PX, SIDE_PX))
    assert not [name for name in vit.state_dict() if "places" in name]


def test_the_vit_is_segment_anythings():
    vit = tiny_sam().image_encoder
    pixels = torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=torch.manual_seed(0))
    expected = vit(pixels)
    torch.testing.assert_close(FastViT(copy.deepcopy(vit), torch.float32)(pixels), expected, atol=1e-5, rtol=1e-5)
    half = FastViT(vit, torch.bfloat16)(pixels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.2, rtol=0)


def test_images_are_read_as_the_predictor_reads_them():
    sam = tiny_sam()
    reader = ImageReader(SIDE_PX, sam.pixel_mean, sam.pixel_std)
    image = drawn_image(90, 200)
    read = SamPredictor(sam).transform.apply_image(image)
    assert read.shape[:2] == reader.size((90, 200)) == (58, 128)
    batch = reader.batch([reader.read(image)], rows=2)
    assert torch.equal(batch[0], sam.preprocess(torch.from_numpy(read).permute(2, 0, 1)))
    assert not batch[1].any()


def test_points_and_boxes_go_to_the_frame_that_is_read():
    reader = ImageReader(128, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    points = reader.points(np.array([[10.0, 20.0]]), (32, 64))
    assert points.tolist() == [[20.0, 40.0]]
    assert reader.boxes(np.array([[0.0, 1.0, 2.0, 3.0]]), (32, 64)).tolist() == [[0.0, 2.0, 4.0, 6.0]]
