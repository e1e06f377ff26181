"""Tiny SAMs, seeded, as state dicts with segment-anything's names, and its own generator on them."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

SIDE_PX = 128
CHANNELS = 32
LOWERED = (1.0, 1.0, 2.0, 3.0)
"""By how much the logits of each of a prompt's masks are lowered."""


def tiny_sam(seed: int = 0) -> Sam:
    """A SAM of 8 x 8 image tokens: one block of windows, one of global attention.

    Weights are large enough for masks to have shapes and for predicted IoUs to differ.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = Sam(
            ImageEncoderViT(
                img_size=SIDE_PX,
                embed_dim=CHANNELS,
                depth=2,
                num_heads=2,
                out_chans=CHANNELS,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            PromptEncoder(CHANNELS, (SIDE_PX // 16,) * 2, (SIDE_PX,) * 2, 16),
            MaskDecoder(
                transformer_dim=CHANNELS,
                transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=64, num_heads=8),
                iou_head_hidden_dim=CHANNELS,
            ),
        )
        enliven(sam)
    return sam.eval().requires_grad_(False)


def enliven(sam: Sam) -> None:
    """Draws what starts as zero, lets image tokens heed the prompt near them, and spreads predicted IoUs about 0.5."""
    sam.image_encoder.pos_embed.data.normal_()
    for block in sam.image_encoder.blocks:
        block.attn.rel_pos_h.data.normal_()
        block.attn.rel_pos_w.data.normal_()
    for block in sam.mask_decoder.transformer.layers:
        attention = block.cross_attn_image_to_token
        torch.nn.init.orthogonal_(attention.q_proj.weight, 4)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight)
        attention.out_proj.weight.data *= 30
    head = sam.mask_decoder.iou_prediction_head.layers[-1]
    head.weight.data *= 4
    head.bias.data.fill_(0.5)
    last = sam.mask_decoder.output_upscaling[3]
    last.weight.data[:, 0] = 0  # one channel is the same everywhere: it lowers every logit, so that masks are small
    last.bias.data[0] = 3
    for hyper, lowered in zip(sam.mask_decoder.output_hypernetworks_mlps, LOWERED, strict=True):
        hyper.layers[-1].weight.data *= 100
        hyper.layers[-1].weight.data[0] = 0
        hyper.layers[-1].bias.data[0] = -lowered / 3


def write_tiny_sam(path: Path, seed: int = 0) -> Path:
    """Its state dict in a file."""
    torch.save(tiny_sam(seed).state_dict(), path)
    return path


def drawn_image(height: int, width: int, seed: int = 0, grey: bool = False) -> np.ndarray:
    """Coloured blocks under noise, RGB uint8 (H, W, 3)."""
    randoms = np.random.default_rng(seed)
    blocks = randoms.integers(0, 256, (5, 5, 3)).repeat(-(-height // 5), axis=0).repeat(-(-width // 5), axis=1)
    pixels = blocks[:height, :width] + randoms.normal(0, 12, (height, width, 3))
    pixels = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2) if grey else pixels
    return np.clip(pixels, 0, 255).astype(np.uint8)
