"""The decoder with shared image-side projections equals segment-anything's, for points and boxes of several images."""

import pytest
import torch
from tiny_sam import CHANNELS, SIDE_PX, tiny_sam

from ovseg_model.proposals.sam_decoder import PromptDecoder, prompts_apart, prompts_together


@pytest.fixture(scope="module")
def sam():
    return tiny_sam()


def embeddings(images):
    return torch.randn(images, CHANNELS, 8, 8, generator=torch.manual_seed(1))


def theirs(sam, embedding_Cyx, points=None, boxes=None):
    sparse, dense = sam.prompt_encoder(points, boxes, None)
    return sam.mask_decoder.predict_masks(embedding_Cyx[None], sam.prompt_encoder.get_dense_pe(), sparse, dense)


@pytest.mark.parametrize("images", [1, 3])
def test_points_give_the_logits_and_ious_of_segment_anything(sam, images):
    prompts = 5
    points_IP2 = SIDE_PX * torch.rand(images, prompts, 2, generator=torch.manual_seed(2))
    decoder = PromptDecoder(sam.prompt_encoder, sam.mask_decoder, torch.float32)
    decoded = decoder.decode(decoder.image_side(embeddings(images)), decoder.point_tokens(points_IP2))
    logits = decoder.mask_logits(decoded, torch.arange(images * prompts), slice(None), (8, 8))
    for image, embedding in enumerate(embeddings(images)):
        labels = torch.ones(prompts, 1, dtype=torch.int)
        expected, ious = theirs(sam, embedding, points=(points_IP2[image][:, None], labels))
        torch.testing.assert_close(decoded.iou_IPM[image], ious, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits.unflatten(0, (images, prompts))[image], expected, atol=1e-4, rtol=1e-4)


def test_tokens_of_points_are_segment_anythings_byte_by_byte(sam):
    points_IP2 = SIDE_PX * torch.rand(2, 33, 2, generator=torch.manual_seed(3), dtype=torch.float64)
    found = PromptDecoder(sam.prompt_encoder, sam.mask_decoder, torch.float32).point_tokens(points_IP2)
    labels = torch.ones(66, 1, dtype=torch.int)
    expected, _ = sam.prompt_encoder((points_IP2.reshape(66, 1, 2), labels), None, None)
    assert torch.equal(found[:, :, -2:].flatten(0, 1), expected)


def test_boxes_give_the_logits_of_segment_anything(sam):
    boxes = torch.tensor([[3.0, 4, 60, 90], [0, 0, 127, 20]])
    decoder = PromptDecoder(sam.prompt_encoder, sam.mask_decoder, torch.float32)
    decoded = decoder.decode(decoder.image_side(embeddings(1)), decoder.box_tokens(boxes[None]))
    expected, ious = theirs(sam, embeddings(1)[0], boxes=boxes)
    torch.testing.assert_close(decoded.iou_IPM[0], ious, atol=1e-5, rtol=1e-5)
    logits = decoder.mask_logits(decoded, torch.tensor([1, 0]), slice(0, 1), (8, 8))
    torch.testing.assert_close(logits, expected[[1, 0], :1], atol=1e-4, rtol=1e-4)


def test_logits_end_with_the_used_tokens(sam):
    decoder = PromptDecoder(sam.prompt_encoder, sam.mask_decoder, torch.float32)
    decoded = decoder.decode(decoder.image_side(embeddings(1)), decoder.point_tokens(torch.full((1, 1, 2), 50.0)))
    whole, part = (decoder.mask_logits(decoded, torch.tensor([0]), slice(1, None), used) for used in ((8, 8), (5, 3)))
    assert part.shape == (1, 3, 20, 12)
    torch.testing.assert_close(part, whole[..., :20, :12])


def test_half_precision_is_near(sam):
    full, half = (PromptDecoder(sam.prompt_encoder, sam.mask_decoder, kind) for kind in (torch.float32, torch.bfloat16))
    points_IP2 = SIDE_PX * torch.rand(1, 8, 2, generator=torch.manual_seed(2))
    one, other = (each.decode(each.image_side(embeddings(1)), each.point_tokens(points_IP2)) for each in (full, half))
    assert other.tokens_BNC.dtype == torch.bfloat16
    torch.testing.assert_close(one.iou_IPM, other.iou_IPM, atol=0.05, rtol=0)
    assert other.iou_IPM.dtype == torch.float32


def test_a_cpu_takes_few_prompts_a_forward(sam):
    full, half = (PromptDecoder(sam.prompt_encoder, sam.mask_decoder, kind) for kind in (torch.float32, torch.bfloat16))
    assert [full.prompts_a_forward(wanted) for wanted in (1, 64)] == [1, 2]
    assert half.prompts_a_forward(64) == 4


def test_prompts_come_apart_as_they_went_together():
    rows_BhTd = torch.arange(6 * 2 * 3 * 4).reshape(6, 2, 3, 4)
    together_IhQd = prompts_together(rows_BhTd, 2)
    assert together_IhQd.shape == (2, 2, 9, 4)
    # Image 1, head 0, the first token of its second prompt (row 4).
    assert torch.equal(together_IhQd[1, 0, 3], rows_BhTd[4, 0, 0])
    assert torch.equal(prompts_apart(together_IhQd, 3), rows_BhTd)
