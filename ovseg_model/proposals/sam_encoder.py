"""SAM's image encoder at work: images resized and padded as segment-anything does, attention that stays in the caches.

SAM's ViT adds decomposed relative positions to its attention scores: with 4,096 tokens a head's scores are 64 MB, which
segment-anything writes and reads several times over. Here a CPU takes a block of queries of one head at a time, a GPU
one fused attention. Any other encoder (MobileSAM's) is called as it is.

Array names end in their axes: B images, S pixels of a side, H and W tokens, C channels, h heads, d channels of a head,
Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional

QUERIES = 256
"""Queries of a head that a CPU attends with at once: their scores for 4,096 keys are 4 MB."""


class ImageEncoder(Protocol):
    """What SAM needs of an encoder, besides being a torch module; a plug-in's factory returns one."""

    img_size: int
    """Side of the square it reads, in pixels."""

    def __call__(self, pixels_B3SS: Tensor) -> Tensor:
        """Returns embeddings (B, C, S / 16, S / 16) of normalised pixels."""
        ...


class FastViT(nn.Module):
    """segment-anything's ViT with other attention; blocks may be of half precision, the neck stays float32."""

    def __init__(self, vit: ImageEncoderViT, dtype: torch.dtype) -> None:
        """Takes the encoder over: its blocks are changed in place."""
        super().__init__()
        self.img_size, self._dtype = vit.img_size, dtype
        for block in vit.blocks:
            block.attn = RelativeAttention(block.attn)
        self.patch_embed, self.blocks = vit.patch_embed.to(dtype), vit.blocks.to(dtype)
        self.pos_embed = None if vit.pos_embed is None else nn.Parameter(vit.pos_embed.to(dtype), requires_grad=False)
        self.neck = vit.neck

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Returns embeddings, float32 (B, C, H, W)."""
        tokens_BHWC = self.patch_embed(pixels_B3SS.to(self._dtype))
        if self.pos_embed is not None:
            tokens_BHWC = tokens_BHWC + self.pos_embed
        for block in self.blocks:
            tokens_BHWC = block(tokens_BHWC)
        return self.neck(tokens_BHWC.float().permute(0, 3, 1, 2))


class RelativeAttention(nn.Module):
    """segment-anything's attention of a ViT block, with its weights."""

    def __init__(self, attention: nn.Module) -> None:
        """attention: `segment_anything.modeling.image_encoder.Attention`."""
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        for name, table_Ld in (("places_h", self.rel_pos_h), ("places_w", self.rel_pos_w)):
            self.register_buffer(name, places_of(table_Ld), persistent=False)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Returns tokens of the same shape."""
        images, height, width, _ = tokens_BHWC.shape
        qkv = self.qkv(tokens_BHWC).reshape(images, height * width, 3, self.num_heads, -1)
        queries_BhQd, keys_BhKd, values_BhKd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        rows_BhQH1, columns_BhQ1W = self._positions(queries_BhQd, height, width)
        attend = attend_in_blocks if is_large_on_cpu(queries_BhQd) else attend_at_once
        found_BhQd = attend(queries_BhQd, keys_BhKd, values_BhKd, rows_BhQH1, columns_BhQ1W, self.scale)
        return self.proj(found_BhQd.transpose(1, 2).reshape(tokens_BHWC.shape))

    def _positions(self, queries_BhQd: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns what relative rows and columns add to scores, (B, h, Q, H, 1) and (B, h, Q, 1, W)."""
        queries_BhHWd = queries_BhQd.unflatten(2, (height, width))
        rows_HKd = relative_positions(height, self.rel_pos_h, self.places_h)
        columns_WKd = relative_positions(width, self.rel_pos_w, self.places_w)
        rows = torch.einsum("bnhwd,hkd->bnhwk", queries_BhHWd, rows_HKd).flatten(2, 3)
        columns = torch.einsum("bnhwd,wkd->bnhwk", queries_BhHWd, columns_WKd).flatten(2, 3)
        return rows[..., None], columns[..., None, :]


def places_of(table_Ld: Tensor) -> Tensor:
    """Returns where a table of relative positions has those of each query and key, int64 (Q, K), on its device."""
    at_Q = torch.arange((len(table_Ld) + 1) // 2, device=table_Ld.device)
    return at_Q[:, None] - at_Q + at_Q[-1]


def relative_positions(tokens: int, table_Ld: Tensor, places_QK: Tensor) -> Tensor:
    """Returns what segment-anything's `get_rel_pos` does, (Q, K, d), by places that lie on the device.

    It makes the places on the CPU in each block of each forward; it does so here only for a table of another size.
    """
    return table_Ld[places_QK] if tokens == len(places_QK) else get_rel_pos(tokens, tokens, table_Ld)


def is_large_on_cpu(queries_BhQd: Tensor) -> bool:
    """Whether scores outgrow a CPU's caches: global attention, not that of windows."""
    return queries_BhQd.device.type == "cpu" and queries_BhQd.shape[2] > QUERIES


def attend_at_once(
    queries: Tensor, keys: Tensor, values: Tensor, rows_BhQH1: Tensor, columns_BhQ1W: Tensor, scale: float
) -> Tensor:
    """Returns attention of queries, keys and values (B, h, Q, d) with relative positions, by torch's fused kernel."""
    positions_BhQK = (rows_BhQH1 + columns_BhQ1W).flatten(3)
    return functional.scaled_dot_product_attention(queries, keys, values, positions_BhQK, scale=scale)


def attend_in_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, rows_BhQH1: Tensor, columns_BhQ1W: Tensor, scale: float
) -> Tensor:
    """Returns the same, one block of one head's queries at a time."""
    found = torch.empty_like(queries)
    for image, head in np.ndindex(queries.shape[:2]):
        at = image, head
        keys_dK = (keys[at] * scale).T
        for block in range(0, queries.shape[2], QUERIES):
            part = slice(block, block + QUERIES)
            scores_QHW = (queries[at][part] @ keys_dK).unflatten(1, (rows_BhQH1.shape[3], columns_BhQ1W.shape[4]))
            scores_QHW += rows_BhQH1[at][part]
            scores_QHW += columns_BhQ1W[at][part]
            found[at][part] = scores_QHW.flatten(1).softmax(dim=-1) @ values[at]
    return found


class ImageReader:
    """Images to what an encoder reads: long side as long as its square, normalised, zeros right and below."""

    def __init__(self, side_px: int, mean: Tensor, std: Tensor) -> None:
        """side_px: of the square. mean, std: of RGB in 0..255, float32 (3, 1, 1), on the device to work on."""
        self.side_px = side_px
        self._resize = ResizeLongestSide(side_px)
        self._mean, self._std = mean, std

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) at which an image is read."""
        return self._resize.get_preprocess_shape(*size, self.side_px)

    def points(self, points_P2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns points (x, y) of an image's frame in the frame it is read in, float64 (P, 2)."""
        return self._resize.apply_coords(points_P2, size)

    def boxes(self, boxes_P4: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns boxes (x0, y0, x1, y1) of an image's frame in the frame it is read in, float64 (P, 4)."""
        return self._resize.apply_boxes(boxes_P4, size)

    def read(self, image_HW3: np.ndarray) -> np.ndarray:
        """Returns an image, RGB uint8 (H, W, 3), at the size it is read at, by Pillow."""
        return self._resize.apply_image(image_HW3)

    def batch(self, read: Sequence[np.ndarray], rows: int) -> Tensor:
        """Returns images that were read as float32 (rows, 3, S, S); rows without an image are zero."""
        batch_B3SS = torch.zeros((rows, 3, self.side_px, self.side_px), device=self._mean.device)
        for row_3SS, read_HW3 in zip(batch_B3SS, read, strict=False):
            pixels_3HW = torch.from_numpy(read_HW3).to(self._mean.device).permute(2, 0, 1)
            row_3SS[:, : pixels_3HW.shape[1], : pixels_3HW.shape[2]] = (pixels_3HW - self._mean) / self._std
        return batch_B3SS
