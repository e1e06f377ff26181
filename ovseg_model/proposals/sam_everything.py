"""SAM at work on images: everything-mode, a grid of points on each crop, and masks for boxes.

Forwards have a fixed shape: crops of several images share the encoder's, padded with empty images, and points of those
crops share the decoder's. So an image's masks depend on its neighbours in a batch no more than rounding does.

Array names end in their axes: I crops of a forward, P prompts of a crop, M masks of a prompt, N masks of a crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor

from ovseg_model.device_clock import device_at_work
from ovseg_model.proposals import sam_postprocess as post
from ovseg_model.proposals.sam_decoder import ENLARGED, Decoded, ImageSide, PromptDecoder
from ovseg_model.proposals.sam_encoder import FastViT, ImageReader
from ovseg_model.proposals.sam_points import Crop, crops_of, grids, points_in
from ovseg_model.proposals.sam_postprocess import Candidates, Frame, KeptMasks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

ENLARGED_AT_ONCE = {"cpu": 1}
"""Prompts whose masks are enlarged together, by kind of device; 16 on a GPU."""

THREE, SINGLE = slice(1, None), slice(0, 1)
"""Which of a prompt's masks: the three of an ambiguous prompt, or SAM's single mask."""

Part = TypeVar("Part", Sequence, Tensor)


class EverythingOptions(post.FilterOptions, Protocol):
    """Options of everything-mode, by segment-anything's names."""

    points_per_side: int
    crop_n_layers: int
    crop_overlap_ratio: float
    crop_n_points_downscale_factor: int


class Batches(NamedTuple):
    """How much goes into a forward."""

    images: int = 1
    """Crops of one encoder's forward, and those whose points share the decoder's."""
    points: int = 64
    """Prompts of one decoder's forward, over all its crops; a CPU takes no more than its caches hold."""

    def __str__(self) -> str:
        return f"{self.points} points and {self.images} images"

    def halved(self) -> Batches | None:
        """Half as much, or None where both are 1."""
        return None if max(self) == 1 else Batches(*(max(1, size // 2) for size in self))


ONE_IMAGE = Batches()


class SamModel:
    """An open SAM on a device, in a number format."""

    def __init__(self, sam: Sam, device: str = "cpu", precision: str = "fp32", compiled: bool = False) -> None:
        """sam: float32; taken over, of no other use afterwards. compiled: by torch.compile, when first used."""
        self.device, dtype = device, DTYPES[precision]
        sam = sam.to(device).eval().requires_grad_(False)
        encoder = sam.image_encoder
        self.reader = ImageReader(encoder.img_size, sam.pixel_mean, sam.pixel_std)
        is_vit = isinstance(encoder, ImageEncoderViT)
        self._encoder = FastViT(encoder, dtype) if is_vit else InDtype(encoder, dtype)
        self.decoder = PromptDecoder(sam.prompt_encoder, sam.mask_decoder, dtype)
        self._decode = self.decoder.decode
        if compiled:
            self._encoder, self._decode = torch.compile(self._encoder), torch.compile(self._decode)

    @property
    def cells(self) -> int:
        """Rows and columns of mask logits."""
        return ENLARGED * self.decoder.grid[0]

    def frame(self, crop: Crop, image_size: tuple[int, int]) -> Frame:
        """Returns where a crop's masks lie."""
        x0, y0, x1, y1 = crop.box
        return Frame(self.reader.side_px, self.reader.size((y1 - y0, x1 - x0)), crop.box, image_size)

    def embed(self, crops: Sequence[np.ndarray], rows: int) -> ImageSide:
        """Returns what all prompts of crops share; crops RGB uint8 (H, W, 3), filled up to `rows`."""
        read = [self.reader.read(crop) for crop in crops]
        with device_at_work(self.device):
            return self.decoder.image_side(self._encoder(self.reader.batch(read, rows)).float())

    def decode(self, side: ImageSide, tokens_IPTC: Tensor) -> Decoded:
        """Returns what prompts are decoded to."""
        return self._decode(side, tokens_IPTC)

    def mask_logits(self, decoded: Decoded, rows_R: Tensor, masks: slice, frame: Frame) -> Tensor:
        """Returns mask logits of some rows, float32 (R, M, h, w), as far as a crop's masks depend on them."""
        at_once = ENLARGED_AT_ONCE.get(self._kind, 16)
        tokens = tuple(-(-side // ENLARGED) for side in frame.used(self.cells))
        return torch.cat([self.decoder.mask_logits(decoded, few, masks, tokens) for few in rows_R.split(at_once)])

    @property
    def _kind(self) -> str:
        return self.device.split(":")[0]


class InDtype(torch.nn.Module):
    """An encoder of another kind, in a number format: its weights are cast."""

    def __init__(self, encoder: torch.nn.Module, dtype: torch.dtype) -> None:
        """Takes the encoder over."""
        super().__init__()
        # What an encoder derives from its weights when set to eval, as LeViT its biases, is derived of the cast ones.
        self._encoder, self._dtype = encoder.to(dtype).train().eval(), dtype

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Returns embeddings (B, C, H, W)."""
        return self._encoder(pixels_B3SS.to(self._dtype))


# Everything-mode.


def everything(
    model: SamModel, images: Sequence[np.ndarray], options: EverythingOptions, batches: Batches = ONE_IMAGE
) -> list[KeptMasks]:
    """Returns the masks of images, RGB uint8 (H, W, 3): those of segment-anything's SamAutomaticMaskGenerator.

    Highest predicted IoU first; with crop layers those of smaller crops before, after small regions were removed
    unchanged masks before. Scores are the model's own, so a predicted IoU may lie a little outside of 0..1.
    """
    layers = grids(options.points_per_side, options.crop_n_layers, options.crop_n_points_downscale_factor)
    crops = [crops_of(image.shape[:2], options.crop_n_layers, options.crop_overlap_ratio) for image in images]
    found: list[list[tuple[Frame, Candidates]]] = [[] for _ in images]
    with torch.inference_mode():
        for layer, grid_P2 in enumerate(layers):
            of_layer = [(image, crop) for image, own in enumerate(crops) for crop in own if crop.layer == layer]
            for few in in_parts(of_layer, batches.images):
                views = [crop.cut(images[image]) for image, crop in few]
                frames = [model.frame(crop, images[image].shape[:2]) for image, crop in few]
                masks = masks_at_points(model, views, frames, grid_P2, options, batches)
                for (image, _), frame, candidates in zip(few, frames, masks, strict=True):
                    found[image].append((frame, candidates))
        return [post.finish(of_image, model.cells, options) for of_image in found]


def masks_at_points(
    model: SamModel,
    views: Sequence[np.ndarray],
    frames: Sequence[Frame],
    grid_P2: np.ndarray,
    options: post.FilterOptions,
    batches: Batches,
) -> list[Candidates]:
    """Returns the distinct masks of a grid of points on each of at most `batches.images` crops that pass."""
    side = model.embed(views, batches.images)
    points_IP2 = torch.zeros((batches.images, *grid_P2.shape), dtype=torch.float64)
    for row, frame in zip(points_IP2, frames, strict=False):
        row.copy_(torch.from_numpy(model.reader.points(points_in(grid_P2, frame.size), frame.size)))
    parts: list[list[Candidates]] = [[] for _ in frames]
    with device_at_work(model.device):
        for few_IP2 in points_IP2.to(model.device).split(prompts_a_crop(model, batches), dim=1):
            decoded = model.decode(side, model.decoder.point_tokens(few_IP2))
            for at, frame in enumerate(frames):
                parts[at].append(candidates_of(model, decoded, at, frame, options))
        return [post.distinct(post.joined(of_crop), options) for of_crop in parts]


def prompts_a_crop(model: SamModel, batches: Batches) -> int:
    """Returns how many prompts of each crop share a forward."""
    return max(1, model.decoder.prompts_a_forward(batches.points) // batches.images)


def candidates_of(model: SamModel, decoded: Decoded, at: int, frame: Frame, options: post.FilterOptions) -> Candidates:
    """Returns the masks of one crop's prompts that pass; only prompts with a sufficient predicted IoU are enlarged."""
    iou_PM = decoded.iou_IPM[at, :, THREE]
    passes_PM = post.passing(iou_PM, options)
    prompts_R = passes_PM.any(dim=1).nonzero()[:, 0]
    if not len(prompts_R):
        return no_candidates(model, frame)
    rows_N, masks_N = passes_PM[prompts_R].nonzero().unbind(1)  # a GPU is waited for here, and not for each column
    logits_RMhw = model.mask_logits(decoded, prompts_R + at * len(iou_PM), THREE, frame)
    return post.measure(logits_RMhw[rows_N, masks_N], iou_PM[prompts_R[rows_N], masks_N], frame, model.cells, options)


def no_candidates(model: SamModel, frame: Frame) -> Candidates:
    """Returns none, in the shapes that some would have."""
    height, width = (ENLARGED * -(-side // ENLARGED) for side in frame.used(model.cells))
    none = torch.zeros(0, device=model.device)
    boxes = torch.zeros((0, 4), dtype=torch.int64, device=model.device)
    return Candidates(torch.zeros((0, height, width), device=model.device), none, none, boxes)


# Boxes.


def masks_in_boxes(
    model: SamModel,
    images: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    stability_offset: float = 1.0,
    choose: bool = True,
    batches: Batches = ONE_IMAGE,
) -> list[KeptMasks]:
    """Returns a mask for each box that a detector made: boxes float (N, 4) of each image, x0, y0, x1, y1 in its pixels.

    choose: the mask of highest predicted IoU among SAM's three; else its single mask. No mask is left out: one may be
    empty, and boxes that overlap may have equal masks.
    """
    found: list[KeptMasks] = []
    with torch.inference_mode():
        for few in in_parts(range(len(images)), batches.images):
            side = model.embed([images[image] for image in few], batches.images)
            for at, image in enumerate(few):
                own = ImageSide(*(column[at : at + 1] for column in side))
                frame = model.frame(whole(images[image]), images[image].shape[:2])
                with device_at_work(model.device):
                    parts = list(_in_boxes(model, own, frame, boxes[image], choose, batches.points))
                found.append(_scored(parts, frame, model.cells, stability_offset))
    return found


def whole(image_HW3: np.ndarray) -> Crop:
    """Returns the image as its own crop."""
    height, width = image_HW3.shape[:2]
    return Crop(0, (0, 0, width, height))


def _in_boxes(
    model: SamModel, side: ImageSide, frame: Frame, boxes_N4: np.ndarray, choose: bool, points: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Mask logits and predicted IoUs, a few boxes at a time."""
    read_N4 = model.reader.boxes(np.asarray(boxes_N4, np.float64).reshape(-1, 4), frame.size)
    masks = THREE if choose else SINGLE
    for few_P4 in in_parts(torch.from_numpy(read_N4).float().to(model.device), model.decoder.prompts_a_forward(points)):
        decoded = model.decode(side, model.decoder.box_tokens(few_P4[None]))
        iou_P, best_P = decoded.iou_IPM[0, :, masks].max(dim=1)
        rows_P = torch.arange(len(few_P4), device=model.device)
        yield model.mask_logits(decoded, rows_P, masks, frame)[rows_P, best_P], iou_P


def _scored(parts: Sequence[tuple[Tensor, Tensor]], frame: Frame, cells: int, stability_offset: float) -> KeptMasks:
    if not parts:
        return KeptMasks([], [], [])
    logits_Phw, iou_P = (torch.cat(column) for column in zip(*parts, strict=True))
    return post.scored(logits_Phw, iou_P, frame, cells, stability_offset)


def in_parts(items: Part, size: int) -> Iterator[Part]:
    """Yields at most `size` items at a time, in order."""
    return (items[start : start + size] for start in range(0, len(items), size))
