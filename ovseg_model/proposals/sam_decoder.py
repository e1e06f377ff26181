"""SAM's mask decoder for many prompts of one image: what is the same for every prompt is computed once.

Three things make it fast without other results than rounding has (Kirillov et al., ICCV 2023, appendix A, describes
the decoder itself):

- Without a mask prompt the image's tokens enter the first block alike for every prompt: their projections are made once
  an image, and the prompts of an image are queries of one attention.
- There are few prompt tokens (7) and many image tokens (4,096), so projections of image tokens are moved to the other
  side: (x Wq)·k is x·(Wq k), and the mean of (x Wv) is the mean of x, times Wv. No projected image is ever written.
- The predicted IoU depends on tokens alone: masks are enlarged only of prompts that have a mask worth it.

Array names end in their axes: I images, P prompts of an image, B = I·P rows, T prompt tokens, C channels, h heads,
d channels of a head, N image tokens, M masks of a prompt, D channels of an enlarged pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn
from torch.nn import functional

ENLARGED = 4
"""How many times as many rows and columns a mask has as the image has tokens."""

ROWS_IN_CACHE = {torch.float32: 2}
"""Prompts a forward on a CPU, other number formats 4: about 8 MB of image tokens. 8 and more take 1.5 times as long."""

FOREGROUND = 1
"""The label of a point on what is wanted."""

SLAB = 8
"""Rows of tokens enlarged at once on a CPU, for the same reason: all 64 take 1.3 times as long."""


class ImageSide(NamedTuple):
    """What every prompt of an image shares, in the number format of the image tokens."""

    tokens_INC: Tensor
    queries_INhd: Tensor
    """Of the first block's attention from image to prompt."""
    keys_IhNd: Tensor
    values_IhNd: Tensor
    """Of its attention from prompt to image."""


class Decoded(NamedTuple):
    """What prompts are decoded to, before any mask is enlarged."""

    iou_IPM: Tensor
    """Predicted IoU of each mask, float32; the first is that of SAM's single mask, the others of its three."""
    weights_BMD: Tensor
    """How each mask weighs the channels of enlarged pixels, float32."""
    tokens_BNC: Tensor
    """Image tokens that know the prompt."""


class PromptDecoder:
    """SAM's prompt encoder and mask decoder, for points and boxes. Prompt tokens are float32 throughout."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, dtype: torch.dtype) -> None:
        """dtype: of image tokens, and so of nearly all the work. The modules are float32, on their device."""
        self._prompts, self._decoder, self._dtype = prompt_encoder, mask_decoder, dtype
        self.grid = prompt_encoder.image_embedding_size
        transformer = mask_decoder.transformer
        self._pe_NC = prompt_encoder.get_dense_pe().flatten(2)[0].T.contiguous().to(dtype)
        self._first, *self._others = [ImageBlock(layer, dtype) for layer in transformer.layers]
        self._last = ToImage(transformer.final_attn_token_to_image, dtype)
        self._enlarge = Enlargement(mask_decoder.output_upscaling, dtype)

    def image_side(self, embeddings_ICyx: Tensor) -> ImageSide:
        """Returns what the prompts of images share, from the encoder's float32 (I, C, y, x)."""
        empty_C = self._prompts.no_mask_embed.weight[0]
        tokens_INC = embeddings_ICyx.flatten(2).transpose(1, 2).to(self._dtype) + empty_C.to(self._dtype)
        return self._first.image_side(tokens_INC, tokens_INC + self._pe_NC)

    def point_tokens(self, points_IP2: Tensor) -> Tensor:
        """Returns tokens of single foreground points (x, y), in pixels of the encoder's input, (I, P, T, C)."""
        # As segment-anything's prompt encoder has it for a point and its padding, where no label has to be looked at.
        points_B12 = points_IP2.reshape(-1, 1, 2) + 0.5
        found_B1C = self._prompts.pe_layer.forward_with_coords(points_B12, self._prompts.input_image_size)
        found_B1C = found_B1C + self._prompts.point_embeddings[FOREGROUND].weight
        padding_B1C = self._prompts.not_a_point_embed.weight.expand(len(points_B12), 1, -1)
        return self._tokens(torch.cat([found_B1C, padding_B1C], dim=1), points_IP2.shape[:2])

    def box_tokens(self, boxes_IP4: Tensor) -> Tensor:
        """Returns tokens of boxes (x0, y0, x1, y1), in pixels of the encoder's input, (I, P, T, C)."""
        return self._tokens(self._prompts(None, boxes_IP4.reshape(-1, 4), None)[0], boxes_IP4.shape[:2])

    def _tokens(self, prompts_BSC: Tensor, rows: tuple[int, int]) -> Tensor:
        output_OC = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        output_BOC = output_OC.expand(len(prompts_BSC), -1, -1)
        return torch.cat([output_BOC, prompts_BSC], dim=1).unflatten(0, tuple(rows))

    def decode(self, side: ImageSide, tokens_IPTC: Tensor) -> Decoded:
        """Returns what the decoder makes of prompts, as many of each image."""
        pe_BTC = tokens_IPTC.flatten(0, 1)
        queries_BTC, keys_BNC = self._first.enter(side, pe_BTC)
        for block in self._others:
            queries_BTC, keys_BNC = block(queries_BTC, keys_BNC, pe_BTC, self._pe_NC)
        found_BTC = queries_BTC + self._last(queries_BTC + pe_BTC, keys_BNC + self._pe_NC, keys_BNC)
        found_BTC = self._decoder.transformer.norm_final_attn(found_BTC)
        masks_BMC = found_BTC[:, 1 : 1 + self._decoder.num_mask_tokens]
        heads = self._decoder.output_hypernetworks_mlps
        weights_BMD = torch.stack([head(masks_BMC[:, mask]) for mask, head in enumerate(heads)], dim=1)
        iou_BM = self._decoder.iou_prediction_head(found_BTC[:, 0])
        return Decoded(iou_BM.unflatten(0, tokens_IPTC.shape[:2]), weights_BMD, keys_BNC)

    def mask_logits(self, decoded: Decoded, rows_R: Tensor, masks: slice, used: tuple[int, int]) -> Tensor:
        """Returns mask logits of some rows, float32 (R, M, y, x), of the first image tokens alone.

        masks: which of a prompt's. used: rows and columns of tokens; beyond them the input is padding.
        """
        tokens_RyxC = decoded.tokens_BNC[rows_R].unflatten(1, self.grid)[:, : used[0], : used[1]]
        return self._enlarge(tokens_RyxC, decoded.weights_BMD[rows_R, masks])

    def prompts_a_forward(self, wanted: int) -> int:
        """Returns how many prompts share a forward: as many as wanted, on a CPU no more than its caches hold."""
        in_cache = ROWS_IN_CACHE.get(self._dtype, 4) if self._pe_NC.device.type == "cpu" else wanted
        return min(wanted, in_cache)


class ToImage:
    """Cross-attention of prompt tokens to image tokens, without projecting the image."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype) -> None:
        """attention: of segment-anything, float32."""
        self._attention, self._dtype = attention, dtype
        self._key_hdC, _ = by_head(attention.k_proj, attention.num_heads)
        self._value_hdC, self._value_bias_hd = by_head(attention.v_proj, attention.num_heads)

    def __call__(self, queries_BTC: Tensor, keys_BNC: Tensor, values_BNC: Tensor) -> Tensor:
        """Returns what the prompts' tokens found, float32 (B, T, C); queries float32."""
        queries_BhTd = heads_of(self._attention.q_proj(queries_BTC), self._attention.num_heads)
        # The keys' bias adds the same to every image token's score: the softmax does not see it.
        asked_BhTC = queries_BhTd * scale_of(queries_BhTd) @ self._key_hdC
        scores_BAN = asked_BhTC.flatten(1, 2).to(self._dtype) @ keys_BNC.transpose(1, 2)
        seen_BAC = scores_BAN.softmax(dim=-1) @ values_BNC
        seen_BhTC = seen_BAC.float().unflatten(1, asked_BhTC.shape[1:3])
        return self._attention.out_proj(joined(seen_BhTC @ self._value_hdC.mT + self._value_bias_hd[:, None]))


class FromImage:
    """Cross-attention of image tokens to prompt tokens, added to the image; its output is projected on their side."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype) -> None:
        """attention: of segment-anything, float32."""
        self._attention, self._dtype = attention, dtype
        self._query_hdC, self._query_bias_hd = by_head(attention.q_proj, attention.num_heads)
        out_Chd = attention.out_proj.weight.unflatten(1, (attention.num_heads, -1))
        self._out_hdC = out_Chd.permute(1, 2, 0).contiguous()

    def scores(self, keys_BTC: Tensor, image_BNC: Tensor) -> Tensor:
        """Returns scores of image tokens for prompt tokens, (B, h, T, N)."""
        keys_BhTd = self.keys(keys_BTC)
        asked_BAC = (keys_BhTd @ self._query_hdC).flatten(1, 2).to(self._dtype)
        bias_BA1 = (keys_BhTd @ self._query_bias_hd[..., None]).flatten(1, 2).to(self._dtype)
        return torch.baddbmm(bias_BA1, asked_BAC, image_BNC.transpose(1, 2)).unflatten(1, keys_BhTd.shape[1:3])

    def keys(self, keys_BTC: Tensor) -> Tensor:
        """Returns keys of prompt tokens, scaled, (B, h, T, d)."""
        keys_BhTd = heads_of(self._attention.k_proj(keys_BTC), self._attention.num_heads)
        return keys_BhTd * scale_of(keys_BhTd)

    def add(self, tokens_BNC: Tensor, scores_BhTN: Tensor, values_BTC: Tensor) -> Tensor:
        """Returns image tokens (any that broadcast to (B, N, C)) and what they found in the prompt tokens."""
        heads = self._attention.num_heads
        found_BhTC = heads_of(self._attention.v_proj(values_BTC), heads) @ self._out_hdC
        # Shares of a head sum to 1 over T, so that each head brings its part of the bias.
        found_BhTC = found_BhTC + self._attention.out_proj.bias / heads
        shares_BAN = scores_BhTN.softmax(dim=2).flatten(1, 2)
        return torch.baddbmm(tokens_BNC, shares_BAN.transpose(1, 2), found_BhTC.flatten(1, 2).to(self._dtype))


class ImageBlock:
    """One two-way block: prompt tokens attend to each other and to the image, then the image to them."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        """block: of segment-anything, float32."""
        self._block, self._dtype = block, dtype
        self._to_image = ToImage(block.cross_attn_token_to_image, dtype)
        self._from_image = FromImage(block.cross_attn_image_to_token, dtype)
        self._norm = in_dtype(block.norm4, dtype)

    def __call__(self, queries_BTC: Tensor, tokens_BNC: Tensor, pe_BTC: Tensor, pe_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns prompt tokens and image tokens after the block."""
        image_BNC = tokens_BNC + pe_NC
        queries_BTC = self._attend_to_prompts(queries_BTC, pe_BTC)
        queries_BTC = self._take(queries_BTC, self._to_image(queries_BTC + pe_BTC, image_BNC, tokens_BNC))
        scores_BhTN = self._from_image.scores(queries_BTC + pe_BTC, image_BNC)
        return queries_BTC, self._norm(self._from_image.add(tokens_BNC, scores_BhTN, queries_BTC))

    def image_side(self, tokens_INC: Tensor, image_INC: Tensor) -> ImageSide:
        """Returns projections of the image as it enters this block; image_INC has its positions added."""
        to_image, from_image = self._block.cross_attn_token_to_image, self._block.cross_attn_image_to_token
        queries_INhd = project(from_image.q_proj, image_INC).unflatten(2, (from_image.num_heads, -1))
        keys_IhNd, values_IhNd = (
            heads_of(project(layer, image), to_image.num_heads).contiguous()
            for layer, image in ((to_image.k_proj, image_INC), (to_image.v_proj, tokens_INC))
        )
        return ImageSide(tokens_INC, queries_INhd, keys_IhNd, values_IhNd)

    def enter(self, side: ImageSide, pe_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the same as a call, from projections that prompts share."""
        images = len(side.tokens_INC)
        queries_BTC = self._attend_to_prompts(pe_BTC, pe_BTC)
        queries_BTC = self._take(queries_BTC, self._ask_shared(side, queries_BTC + pe_BTC))
        keys_BhTd = self._from_image.keys(queries_BTC + pe_BTC).to(self._dtype)
        keys_IhQd = prompts_together(keys_BhTd, images)
        scores_IhQN = keys_IhQd @ side.queries_INhd.permute(0, 2, 3, 1)
        scores_BhTN = prompts_apart(scores_IhQN, len(pe_BTC) // images)
        tokens_BNC = side.tokens_INC.repeat_interleave(len(pe_BTC) // images, dim=0) if images > 1 else side.tokens_INC
        return queries_BTC, self._norm(self._from_image.add(tokens_BNC, scores_BhTN, queries_BTC))

    def _ask_shared(self, side: ImageSide, queries_BTC: Tensor) -> Tensor:
        attention = self._block.cross_attn_token_to_image
        queries_BhTd = heads_of(attention.q_proj(queries_BTC), attention.num_heads).to(self._dtype)
        queries_IhQd = prompts_together(queries_BhTd, len(side.tokens_INC))
        found_IhQd = functional.scaled_dot_product_attention(queries_IhQd, side.keys_IhNd, side.values_IhNd)
        found_BhTd = prompts_apart(found_IhQd, len(queries_BTC) // len(side.tokens_INC))
        return attention.out_proj(joined(found_BhTd.float()))

    def _attend_to_prompts(self, queries_BTC: Tensor, pe_BTC: Tensor) -> Tensor:
        attention = self._block.self_attn
        if self._block.skip_first_layer_pe:
            return self._block.norm1(attention(q=queries_BTC, k=queries_BTC, v=queries_BTC))
        asked_BTC = queries_BTC + pe_BTC
        return self._block.norm1(queries_BTC + attention(q=asked_BTC, k=asked_BTC, v=queries_BTC))

    def _take(self, queries_BTC: Tensor, found_BTC: Tensor) -> Tensor:
        queries_BTC = self._block.norm2(queries_BTC + found_BTC)
        return self._block.norm3(queries_BTC + self._block.mlp(queries_BTC))


class Enlargement:
    """The two transposed convolutions before a mask: their strides equal their kernels, so each is a matrix product.

    Channels stay last, where layer normalisation wants them.
    """

    def __init__(self, upscaling: nn.Sequential, dtype: torch.dtype) -> None:
        """upscaling: of segment-anything: convolution, normalisation, activation, convolution, activation."""
        first, norm, self._activation, second, self._last_activation = upscaling
        self._first, self._second = as_linear(first, dtype), as_linear(second, dtype)
        self._norm = norm.weight.to(dtype), norm.bias.to(dtype), norm.eps
        self._dtype = dtype

    def __call__(self, tokens_RyxC: Tensor, weights_RMD: Tensor) -> Tensor:
        """Returns mask logits, float32 (R, M, 4 y, 4 x)."""
        at_once = SLAB if tokens_RyxC.device.type == "cpu" else tokens_RyxC.shape[1]
        slabs = tokens_RyxC.split(at_once, dim=1)
        return torch.cat([self._enlarged(slab_RyxC, weights_RMD) for slab_RyxC in slabs], dim=2)

    def _enlarged(self, tokens_RyxC: Tensor, weights_RMD: Tensor) -> Tensor:
        rows, height, width, _ = tokens_RyxC.shape
        pixels_L4D = functional.linear(tokens_RyxC.reshape(-1, tokens_RyxC.shape[-1]), *self._first).unflatten(
            1, (4, -1)
        )
        weight, bias, eps = self._norm
        pixels_L4D = self._activation(functional.layer_norm(pixels_L4D, weight.shape, weight, bias, eps))
        pixels_KD = self._last_activation(functional.linear(pixels_L4D, *self._second)).reshape(
            rows, -1, weights_RMD.shape[2]
        )
        logits_RMK = weights_RMD.to(self._dtype) @ pixels_KD.transpose(1, 2)
        # Each token became 2 x 2 pixels, and each of those 2 x 2 again.
        logits_RMyxabcd = logits_RMK.reshape(rows, -1, height, width, 2, 2, 2, 2)
        logits = logits_RMyxabcd.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(rows, -1, ENLARGED * height, ENLARGED * width).float()


def by_head(layer: nn.Linear, heads: int) -> tuple[Tensor, Tensor]:
    """Returns a projection's weight (h, d, C) and bias (h, d)."""
    return layer.weight.unflatten(0, (heads, -1)).contiguous(), layer.bias.unflatten(0, (heads, -1))


def heads_of(rows_BTE: Tensor, heads: int) -> Tensor:
    """Returns channels cut into heads, (B, h, T, d)."""
    return rows_BTE.unflatten(2, (heads, -1)).transpose(1, 2)


def joined(rows_BhTd: Tensor) -> Tensor:
    """Returns heads side by side, (B, T, h·d)."""
    return rows_BhTd.transpose(1, 2).flatten(2)


def prompts_together(rows_BhTd: Tensor, images: int) -> Tensor:
    """Returns all prompts' tokens of each image in one axis, (I, h, P·T, d)."""
    return rows_BhTd.unflatten(0, (images, -1)).transpose(1, 2).flatten(2, 3)


def prompts_apart(rows_IhQd: Tensor, prompts: int) -> Tensor:
    """Returns the inverse of `prompts_together`, (I·P, h, T, d)."""
    return rows_IhQd.unflatten(2, (prompts, -1)).transpose(1, 2).flatten(0, 1)


def scale_of(rows_BhTd: Tensor) -> float:
    """Returns what attention multiplies scores with."""
    return rows_BhTd.shape[-1] ** -0.5


def project(layer: nn.Linear, rows: Tensor) -> Tensor:
    """Returns a float32 layer's output in the rows' number format."""
    return functional.linear(rows, layer.weight.to(rows.dtype), layer.bias.to(rows.dtype))


def in_dtype(norm: nn.LayerNorm, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Returns a layer normalisation for rows of a number format."""
    weight, bias = norm.weight.to(dtype), norm.bias.to(dtype)
    return lambda rows: functional.layer_norm(rows, norm.normalized_shape, weight, bias, norm.eps)


def as_linear(convolution: nn.ConvTranspose2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns weight (4·out, in) and bias (4·out,): of every input pixel its 2 x 2 output pixels, channels last."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return weight.contiguous().to(dtype), convolution.bias.repeat(4).to(dtype)
