"""All masks of an image in one forward of CLIP: a class token a mask, which reads its own mask's patches alone.

The image goes through the tower once. Before the last k blocks the class token is copied once a mask; there each copy
attends to itself and to the patches of its mask, and nothing attends to a copy, so masks do not see one another and
patches become what they become without masks. With all blocks and a mask of all patches a copy is CLIP's class token.

Another scorer than one crop a mask, not the same one faster: an object has the few patches that it covers in the whole
image, and its patches have seen the rest of the image. On weights that were not tuned for it k stays small: masked
attention in every block costs CLIP 13 points of accuracy on ImageNet-S (Alpha-CLIP, Sun et al. CVPR 2024, table 10).

Array names end in their axes: B images, N masks, H and W of an image, S side of the input in pixels, G of the grid of
patches, P patches in rows from the top left, L tokens (class token, then patches), E width of the tower, h heads, d
width of a head, D dimensions of the shared space.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from ovseg_model.clip import EMBEDDED, Clip, on_host, pooled_at_class_token, project_class_token, sent_to, unit_rows
from ovseg_model.device_clock import device_at_work
from ovseg_model.halving import fitting_rows
from ovseg_model.mask_adapted_clip import resize_positions
from ovseg_model.read_ahead import iterate_ahead
from ovseg_model.regions import RegionOptions, fill_colour, normalise, square_image, square_patch_shares
from schemas.errors import UserError

if TYPE_CHECKING:
    from ovseg_model.region_encoder import MaskedImage

MASKS_PER_IMAGE = 8
"""Of the masks that a forward holds, one image is counted for so many: image_batch 32 is 4 images of a GPU."""


@dataclass(frozen=True)
class OnePassOptions:
    """How masks are read in one forward."""

    layers: int = 1
    """Blocks, the last ones, in which a mask has a class token of its own."""

    size_px: int = 0
    """Side of the input, whose positions are interpolated from the model's own; 0 is the model's own."""

    patch_share: float = 0.9
    """Least share of a patch that a mask must cover to read it; 0 takes every patch that it touches. The higher the
    better, in every setting of docs/one_pass.md: a patch of two things speaks of both."""

    def __post_init__(self) -> None:
        """Refuses values outside their range; raises UserError."""
        if self.layers < 1:
            raise UserError(f"--one-pass-layers: wanted 1 or more, got {self.layers}")
        if self.size_px < 0:
            raise UserError(f"--one-pass-size: wanted a side in pixels, or 0 for the model's own, got {self.size_px}")
        if not 0 <= self.patch_share <= 1:
            raise UserError(f"patch_share: wanted 0 to 1, got {self.patch_share}")


class OnePassEncoder:
    """Masks of whole images to unit vectors, all masks of an image at once; in the place of a `RegionEncoder`."""

    def __init__(self, clip: Clip, options: OnePassOptions, regions: RegionOptions, ahead: bool | None = None) -> None:
        """regions: of it the fill colour, which pads images, and the resize count.

        ahead: as `RegionEncoder`. Raises UserError as `check_one_pass`.
        """
        check_one_pass(clip, options)
        self.clip = clip
        self._options = options
        self._regions = regions
        self._ahead = clip.device != "cpu" if ahead is None else ahead
        self._size_px = options.size_px or clip.image_size_px
        self._tower = tower_of_size(clip.model.visual, self._size_px)
        self._grid = self._tower.grid_size[0]
        self._fitting = fitting_rows(clip.image_batch, "rows in one pass")

    def embed(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        """Returns unit vectors of every image's masks in their order, float32 (N, D) each.

        A vector depends on its image and its mask alone, but for the last digits, on the image's other masks. Raises
        ValueError where masks are empty or of another size than their image.
        """
        vectors: list[np.ndarray] = []
        inputs = self._inputs(images)
        for squares, kept in iterate_ahead(inputs) if self._ahead else inputs:
            vectors += self._fitting.run(partial(self._forwards, squares, kept))
        return vectors

    def _inputs(self, images: Sequence[MaskedImage]) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Squares, and which patches each mask reads, of the images of each forward."""
        step = self._images_per_forward(self.clip.image_batch)
        for start in range(0, len(images), step):
            few = images[start : start + step]
            kept = [self._patches(image_HW3, chunks) for image_HW3, chunks in few]
            yield [self._square(image_HW3) for image_HW3, _ in few], kept

    def _images_per_forward(self, rows: int) -> int:
        """On a CPU one: more are no faster, and padding would be work."""
        return 1 if self.clip.device == "cpu" else max(1, rows // MASKS_PER_IMAGE)

    def _forwards(self, squares: Sequence[torch.Tensor], kept: Sequence[torch.Tensor], rows: int) -> list[np.ndarray]:
        """Vectors of a few images in forwards that count as `rows` rows each."""
        step = self._images_per_forward(rows)
        starts = range(0, len(squares), step)
        parts = [self._forward(squares[start : start + step], kept[start : start + step], rows) for start in starts]
        return [vectors for part in parts for vectors in part]

    def _forward(self, squares: Sequence[torch.Tensor], kept: Sequence[torch.Tensor], rows: int) -> list[np.ndarray]:
        """One forward of a fixed number of images, so that a vector does not depend on how many came."""
        clip, missing = self.clip, self._images_per_forward(rows) - len(squares)
        with clip.inference(), device_at_work(clip.device):
            pixels_B3SS = sent_to(clip.device, torch.stack([*squares, *squares[-1:] * missing]))
            pixels_B3SS = clip.cast(normalise(pixels_B3SS, clip.mean, clip.std))
            sent = [sent_to(clip.device, kept_NP) for kept_NP in kept]
            layers, masks_at_once = self._options.layers, MASKS_PER_IMAGE * rows
            features = encode_masks(self._tower, pixels_B3SS, sent, layers, masks_at_once)
            vectors_ND = unit_rows(torch.cat(features))
        return np.split(on_host(vectors_ND), np.cumsum([len(each) for each in kept])[:-1])

    def _square(self, image_HW3: np.ndarray) -> torch.Tensor:
        fill_rgb = fill_colour(self.clip.mean, self._regions)
        return square_image(image_HW3, self._size_px, fill_rgb, self._regions.antialias)

    def _patches(self, image_HW3: np.ndarray, chunks: Iterable[np.ndarray]) -> torch.Tensor:
        """Which patches each mask reads, bool (N, P), on the host: a thread that reads ahead leaves devices alone."""
        shares = []
        for masks_NHW in chunks:
            if masks_NHW.shape[1:] != image_HW3.shape[:2]:
                raise ValueError(f"masks: wanted (H, W) {image_HW3.shape[:2]} as the image, got {masks_NHW.shape[1:]}")
            shares.append(square_patch_shares(masks_NHW, self._grid).reshape(-1, self._grid**2))
        shares_NP = np.concatenate([np.zeros((0, self._grid**2), np.float32), *shares])
        return patches_read(torch.from_numpy(shares_NP), self._options.patch_share)


def check_one_pass(clip: Clip, options: OnePassOptions) -> None:
    """Refuses a model that cannot read masks in one forward, or not so. Raises UserError."""
    visual, name = clip.model.visual, clip.weights.name
    if clip.sees_whole_images:
        raise UserError(
            f"CLIP {name}: its alpha channel reads one mask a forward, so there is no one pass for all masks; use "
            "--scorer crops"
        )
    if not pooled_at_class_token(clip.model):
        raise UserError(
            f"CLIP {name}: one pass wants open_clip's own VisionTransformer, pooled at its class token, got "
            f"{type(visual).__name__}; use --scorer crops, or a ViT such as ViT-B-16"
        )
    blocks, patch_px = len(visual.transformer.resblocks), visual.patch_size[0]
    if options.layers > blocks:
        raise UserError(f"--one-pass-layers: wanted 1 to {blocks}, the blocks of {name}, got {options.layers}")
    if options.size_px % patch_px:
        raise UserError(f"--one-pass-size: wanted a multiple of {name}'s patch, {patch_px} px, got {options.size_px}")


def every_block_notices(clip: Clip, options: OnePassOptions) -> tuple[str, ...]:
    """What should be known where every block is asked for; nothing of the CLIP of drawn scenes, which gains by it."""
    if clip.weights.name in EMBEDDED or options.layers < len(clip.model.visual.transformer.resblocks):
        return ()
    return (
        f"--one-pass-layers {options.layers} is every block of {clip.weights.name}: weights that were not tuned for "
        "masked attention lose accuracy by it (docs/scoring.md); give 1, or compare with crops before you trust it",
    )


def patches_read(shares_NP: torch.Tensor, least_share: float) -> torch.Tensor:
    """Returns which patches each mask reads, bool (N, P): those of which it covers `least_share`.

    A mask that covers no patch so far has the patch that it covers most, the first of equal ones. Raises ValueError
    for a mask without any pixel.
    """
    best_N = shares_NP.max(dim=1).values if len(shares_NP) else shares_NP.new_empty(0)
    if len(best_N) and not (best_N > 0).all():
        raise ValueError(f"mask {int((best_N <= 0).nonzero()[0])}: wanted at least one pixel, got none")
    enough_NP = (shares_NP >= least_share) & (shares_NP > 0)
    first_NP = torch.nn.functional.one_hot(shares_NP.argmax(dim=1), shares_NP.shape[1]).bool()
    return torch.where(enough_NP.any(dim=1, keepdim=True), enough_NP, first_NP)


def tower_of_size(visual: torch.nn.Module, size_px: int) -> torch.nn.Module:
    """Returns the image tower for squares of another side: the same weights, positions interpolated."""
    grid = (size_px // visual.patch_size[0],) * 2
    if grid == visual.grid_size:
        return visual
    other = copy.copy(visual)  # shares every weight but the one that is replaced
    other._parameters = {**visual._parameters}
    other.positional_embedding = resize_positions(visual.positional_embedding, visual.grid_size, grid)
    other.image_size, other.grid_size = (size_px, size_px), grid
    return other


def encode_masks(
    tower: torch.nn.Module,
    images_B3SS: torch.Tensor,
    kept_patches: Sequence[torch.Tensor],
    layers: int,
    masks_at_once: int = 256,
) -> list[torch.Tensor]:
    """Returns features of the masks of each image, not normalised, (N, D); images without masks have none.

    tower: as `pooled_at_class_token` wants it. images_B3SS: normalised, in the tower's number format. kept_patches:
    which patches each mask reads, bool (N, P), of the first images; further ones fill the batch. layers: blocks, the
    last ones, that class tokens of masks pass.
    """
    blocks = tower.transformer.resblocks
    hidden_BLE = tower._embeds(images_B3SS)
    hidden_BLE = hidden_BLE if tower.transformer.batch_first else hidden_BLE.transpose(0, 1).contiguous()
    for block in blocks[:-layers]:
        hidden_BLE = block(hidden_BLE)
    hidden_BLE = hidden_BLE if tower.transformer.batch_first else hidden_BLE.transpose(0, 1)
    pieces = [
        [(hidden_BLE[image, :1].expand(len(part), -1), part) for part in kept_NP.split(masks_at_once)]
        for image, kept_NP in enumerate(kept_patches)
    ]
    for block in blocks[-layers:]:
        query, key, value = _heads_of(block, hidden_BLE)
        patches = key[:, :, 1:], value[:, :, 1:]
        pieces = [
            [
                (_read_patches(block, tokens_NE, patches[0][image], patches[1][image], kept), kept)
                for tokens_NE, kept in of
            ]
            for image, of in enumerate(pieces)
        ]
        if block is not blocks[-1]:
            hidden_BLE = _finish(block, hidden_BLE, scaled_dot_product_attention(query, key, value))
    return [project_class_token(tower, torch.cat([tokens for tokens, _ in of])[:, None]) for of in pieces]


def _read_patches(
    block: torch.nn.Module,
    tokens_NE: torch.Tensor,
    keys_hPd: torch.Tensor,
    values_hPd: torch.Tensor,
    kept_NP: torch.Tensor,
) -> torch.Tensor:
    """One block for class tokens of masks, (N, E): each attends to itself and to its patches."""
    query, key, value = _heads_of(block, tokens_NE)
    itself_NN = torch.eye(len(tokens_NE), dtype=torch.bool, device=tokens_NE.device)
    keys, values = torch.cat([keys_hPd, key], dim=1), torch.cat([values_hPd, value], dim=1)
    allowed = torch.cat([kept_NP, itself_NN], dim=1)
    # With an axis of images: without one, CPUs do not take the fused kernel.
    attended = scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=allowed[None, None])[0]
    return _finish(block, tokens_NE, attended)


def _heads_of(block: torch.nn.Module, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys and values of tokens (..., L, E), by head: (..., h, L, d) each."""
    attention = block.attn
    projected = linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    return [each.unflatten(-1, (attention.num_heads, -1)).transpose(-2, -3) for each in projected.chunk(3, dim=-1)]


def _finish(block: torch.nn.Module, tokens: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """The rest of a block, behind attention: (..., L, E) from what the heads read, (..., h, L, d)."""
    joined = block.attn.out_proj(attended.transpose(-2, -3).flatten(-2))
    tokens = tokens + block.ls_1(joined)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
