"""CLIP that reads masked regions: learned prompts in place of blank patches, or the mask as an alpha channel.

Wraps an open_clip model whose image tower is open_clip's VisionTransformer. Mask prompts are OVSeg's (Liang et al.,
CVPR 2023, section 3.3), the alpha channel is Alpha-CLIP's (Sun et al., CVPR 2024, section 3.2). Array names end in
their axes: B regions, S side of the input in pixels, N patches in rows from the top left, L tokens (the class token,
then the patches), E width of the tower, K depths of prompts, D dimensions of the shared space.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch.nn.functional import interpolate, max_pool2d, pad
from torch.utils.checkpoint import checkpoint

from schemas.errors import UserError

if TYPE_CHECKING:
    from ovseg_model.adapted_weights import ClipOrigin

PROMPT_STD = 0.02
"""Standard deviation of fresh prompts; OVSeg's."""

ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
"""A mask of 0 and 1 enters the alpha convolution as (mask - 0.5) / 0.26, as in Alpha-CLIP's release: about ±1.9, the
range of CLIP's normalised pixels, so one learning rate suits both convolutions; and background speaks as loudly as
foreground, where 0 would leave it without a gradient."""

MODES = ("full", "prompt", "joint", "alpha")
"""What a stage of training changes; `set_trainable` says what each means."""


class MaskAdaptedClip(torch.nn.Module):
    """An open_clip model that embeds masked regions. Its text tower is the model's own: `clip.encode_text`."""

    prompts: torch.nn.Parameter | None
    """Mask prompts, float32 (K, N, E): one vector for each depth and each place of a patch; None for depth 0."""

    alpha_conv: torch.nn.Conv2d | None
    """Patch embedding of the mask, beside the one of the pixels; None without alpha."""

    def __init__(
        self,
        clip: torch.nn.Module,
        depth: int = 0,
        alpha: bool = False,
        seed: int = 0,
        origin: ClipOrigin | None = None,
    ) -> None:
        """Adds fresh prompts or a fresh alpha convolution to a model, whose weights are kept as they are.

        clip: open_clip's CLIP or CustomTextCLIP. depth: blocks whose input is prompted, 0 (no prompts) to the number
        of blocks. seed: of the prompts, normal with standard deviation 0.02; torch's own random state is left alone.
        origin: where the model comes from, which files of weights need. Raises UserError for a tower, a depth or a
        combination that cannot be.
        """
        super().__init__()
        self.clip = clip
        self.origin = origin
        self.require_adaptable(depth, alpha)
        put_sequence_first(self.visual)
        self.register_parameter("prompts", self._fresh_prompts(depth, seed) if depth else None)
        self.alpha_conv = self._fresh_alpha_conv() if alpha else None

    # What it is.

    @property
    def visual(self) -> torch.nn.Module:
        """The image tower."""
        return self.clip.visual

    @property
    def depth(self) -> int:
        """Depth of the prompts, K; 0 without."""
        return 0 if self.prompts is None else len(self.prompts)

    @property
    def image_size_px(self) -> int:
        """Side S of the square input, in pixels."""
        size = self.visual.image_size
        return size if isinstance(size, int) else size[0]

    @property
    def patch_px(self) -> int:
        """Side of a square patch in pixels; of a VisionTransformer only."""
        return self.visual.patch_size[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; of a VisionTransformer only."""
        return self.visual.grid_size

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the pixels that it was trained on, RGB in 0..1."""
        return tuple(open_clip.get_model_preprocess_cfg(self.clip)["mean"])

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of those pixels."""
        return tuple(open_clip.get_model_preprocess_cfg(self.clip)["std"])

    # What it does.

    def encode_regions(self, images_B3SS: torch.Tensor, masks_BSS: torch.Tensor | None = None) -> torch.Tensor:
        """Returns features of masked regions, not normalised, (B, D).

        images_B3SS: normalised with the model's mean and deviation; for prompts the regions of
        `regions.region_batch`, for alpha whole images. masks_BSS: bool, True in the foreground, in the frame of the
        images. Without masks the image is taken whole: for prompts nothing is blank, for alpha all is foreground.
        Without prompts and alpha, masks change nothing. Raises ValueError for other shapes and dtypes.
        """
        self._check_input(images_B3SS, masks_BSS)
        if self.alpha_conv is not None:
            return self._encode_with_alpha(images_B3SS, masks_BSS)
        if self.prompts is not None and masks_BSS is not None:
            return self._encode_with_prompts(images_B3SS, masks_BSS)
        features = self.visual(images_B3SS)
        return features[0] if isinstance(features, tuple) else features

    forward = encode_regions

    def _encode_with_prompts(self, images_B3SS: torch.Tensor, masks_BSS: torch.Tensor) -> torch.Tensor:
        """Blank patches are overwritten before block 1 and after blocks 1..K-1 (OVSeg, section 3.3)."""
        blank_BN = ~kept_patches(masks_BSS, self.patch_px)
        # Before the positional embeddings and the first LayerNorm: prompts receive both.
        patches_BNE = overwrite(flat_patches(self.visual.conv1(images_B3SS)), blank_BN, self.prompts[0])
        hidden_BLE = self._tokens(patches_BNE)
        blank_BL = pad(blank_BN, (1, 0))  # the class token is never overwritten
        for done, block in enumerate(self.visual.transformer.resblocks, start=1):
            hidden_BLE = self._run_block(block, hidden_BLE)
            if done < self.depth:
                hidden_BLE = overwrite(hidden_BLE, blank_BL, pad(self.prompts[done], (0, 0, 1, 0)))
        return self._features(hidden_BLE)

    def _encode_with_alpha(self, images_B3SS: torch.Tensor, masks_BSS: torch.Tensor | None) -> torch.Tensor:
        """The mask's patch embedding is added to the pixels' (Alpha-CLIP, section 3.2)."""
        if masks_BSS is None:
            masks_BSS = images_B3SS.new_ones(len(images_B3SS), *images_B3SS.shape[2:])
        alpha_B1SS = (masks_BSS[:, None].to(images_B3SS.dtype) - ALPHA_MEAN) / ALPHA_STD
        patches_BNE = flat_patches(self.visual.conv1(images_B3SS) + self.alpha_conv(alpha_B1SS))
        return self._features(self.visual.transformer(self._tokens(patches_BNE)))

    def _tokens(self, patches_BNE: torch.Tensor) -> torch.Tensor:
        """What block 1 reads, (B, L, E): class token, positional embeddings and LayerNorm as open_clip adds them."""
        visual, dtype = self.visual, patches_BNE.dtype
        class_token_B1E = visual.class_embedding.to(dtype).expand(len(patches_BNE), 1, -1)
        tokens_BLE = torch.cat([class_token_B1E, patches_BNE], dim=1) + visual.positional_embedding.to(dtype)
        return visual.ln_pre(visual.patch_dropout(tokens_BLE))

    def _run_block(self, block: torch.nn.Module, hidden_BLE: torch.Tensor) -> torch.Tensor:
        """One block as open_clip's Transformer runs it: in its order of axes, checkpointed when that is asked for."""
        transformer = self.visual.transformer
        inputs = hidden_BLE if transformer.batch_first else hidden_BLE.transpose(0, 1)
        run = partial(checkpoint, block, use_reentrant=False) if transformer.grad_checkpointing else block
        outputs = run(inputs)
        return outputs if transformer.batch_first else outputs.transpose(0, 1)

    def _features(self, hidden_BLE: torch.Tensor) -> torch.Tensor:
        """Pools what the last block gives, as open_clip does, and projects it: (B, D)."""
        pooled, _ = self.visual._pool(hidden_BLE)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    # What may change.

    def add_prompts(self, depth: int, seed: int = 0) -> None:
        """Gives a model without prompts fresh ones, as the constructor does. Raises UserError likewise."""
        self.require_adaptable(depth, alpha=self.alpha_conv is not None)
        self.prompts = self._fresh_prompts(depth, seed)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the image tower keeps no activations and computes them again in the backward pass."""
        self.visual.set_grad_checkpointing(enable)

    def resize_input(self, image_size_px: int) -> None:
        """Makes the model read squares of another side, in pixels: positions and prompts are interpolated in place.

        Replaces parameters, so call it before an optimiser holds them. Raises UserError for a side that is no
        multiple of the patch and for a tower that is no VisionTransformer.
        """
        self._require_vision_transformer("another input size")
        if image_size_px < self.patch_px or image_size_px % self.patch_px:
            raise UserError(
                f"input size of {self.name}: wanted a multiple of its patch, {self.patch_px} px, got {image_size_px}"
            )
        visual, old_grid = self.visual, self.grid
        visual.image_size = (image_size_px, image_size_px)
        visual.grid_size = (image_size_px // self.patch_px,) * 2
        if getattr(visual, "preprocess_cfg", None):
            visual.preprocess_cfg["size"] = visual.image_size
        visual.positional_embedding = resize_positions(visual.positional_embedding, old_grid, self.grid)
        if self.prompts is not None:
            self.prompts = resize_positions(self.prompts, old_grid, self.grid)

    # What it refuses.

    @property
    def name(self) -> str:
        """The model's name in sentences."""
        return self.origin.name if self.origin else type(self.clip).__name__

    def require_adaptable(self, depth: int, alpha: bool = False) -> None:
        """Refuses prompts of a depth, or an alpha channel, that this model cannot have. Raises UserError."""
        if depth < 0:
            raise UserError(f"prompt depth of {self.name}: wanted 0 (no prompts) or more, got {depth}")
        if depth and alpha:
            raise UserError(
                f"CLIP {self.name}: prompts stand for what a mask leaves out, alpha keeps the whole image in view; "
                f"wanted one of them, got depth {depth} and alpha; leave one away"
            )
        if depth or alpha:
            self._require_vision_transformer("mask prompts" if depth else "an alpha channel")
        if depth:
            self._check_depth(depth)

    def _require_vision_transformer(self, wanted_for: str) -> None:
        if not isinstance(self.visual, VisionTransformer):
            raise UserError(
                f"CLIP {self.name}: wanted open_clip's own VisionTransformer as image tower for {wanted_for}, got "
                f"{type(self.visual).__name__}; take a ViT such as ViT-B-16, or train it in mode full without them"
            )

    def _check_depth(self, depth: int) -> None:
        blocks = len(self.visual.transformer.resblocks)
        if depth > blocks:
            raise UserError(
                f"prompt depth of {self.name}: wanted 1 to {blocks}, the blocks of its image tower, got {depth}"
            )
        if getattr(self.visual.patch_dropout, "prob", 0):
            raise UserError(
                f"CLIP {self.name}: it drops patches in training, so prompts would not meet their places; give a "
                "configuration with patch_dropout 0"
            )

    def _check_input(self, images_B3SS: torch.Tensor, masks_BSS: torch.Tensor | None) -> None:
        side = self.image_size_px
        if images_B3SS.ndim != 4 or tuple(images_B3SS.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images: wanted (B, 3, {side}, {side}), got {tuple(images_B3SS.shape)}; resize_input takes other sizes"
            )
        wanted = (len(images_B3SS), side, side)
        if masks_BSS is not None and (masks_BSS.dtype != torch.bool or tuple(masks_BSS.shape) != wanted):
            raise ValueError(f"masks: wanted bool {wanted}, got {masks_BSS.dtype} {tuple(masks_BSS.shape)}")

    # What it starts with.

    def _fresh_prompts(self, depth: int, seed: int) -> torch.nn.Parameter:
        weight = self.visual.conv1.weight
        generator = torch.Generator().manual_seed(seed)
        shape = depth, self.grid[0] * self.grid[1], weight.shape[0]
        prompts_KNE = torch.empty(shape, device="cpu").normal_(std=PROMPT_STD, generator=generator)
        return torch.nn.Parameter(prompts_KNE.to(weight.device))

    def _fresh_alpha_conv(self) -> torch.nn.Conv2d:
        """Zeros, so that step 0 is CLIP; the form of the pixels' convolution but for one channel."""
        pixels = self.visual.conv1
        conv = torch.nn.utils.skip_init(
            torch.nn.Conv2d,
            1,
            pixels.out_channels,
            pixels.kernel_size,
            stride=pixels.stride,
            bias=False,
            device=pixels.weight.device,
            dtype=pixels.weight.dtype,
        )
        torch.nn.init.zeros_(conv.weight)
        return conv


def kept_patches(masks_BSS: torch.Tensor, patch_px: int) -> torch.Tensor:
    """Returns which patches hold any foreground, bool (B, N), rows from the top left.

    masks_BSS: bool, True in the foreground. OVSeg pools the mean of each patch and rounds it up (Liang et al., CVPR
    2023, section 3.3): of a binary mask that is the maximum.
    """
    return max_pool2d(masks_BSS[:, None].float(), patch_px).flatten(1) > 0


def put_sequence_first(tower: torch.nn.Module) -> None:
    """Lets the blocks of open_clip's transformer read (L, B, E) where they can; results differ by rounding at most.

    MultiheadAttention turns (B, L, E) itself, and torch folds the projection of what it turned into one product only
    if the weights train: frozen ones it copies for every position, which made a step of mask prompt tuning 1.3 times
    as long in float32 and 4 times in bfloat16 (ViT-B/16 on a CPU). The transformer turns once, at its door.
    """
    transformer = getattr(tower, "transformer", None)
    attentions = [getattr(block, "attn", None) for block in getattr(transformer, "resblocks", ())]
    if attentions and all(type(each) is torch.nn.MultiheadAttention for each in attentions):
        for each in (transformer, *attentions):
            each.batch_first = False


def flat_patches(embedded_BEhw: torch.Tensor) -> torch.Tensor:
    """Returns a convolution's output (B, E, rows, columns) as patches in rows from the top left, (B, N, E)."""
    return embedded_BEhw.flatten(2).transpose(1, 2)


def overwrite(tokens_BLE: torch.Tensor, blank_BL: torch.Tensor, prompts_LE: torch.Tensor) -> torch.Tensor:
    """Returns tokens with a prompt in every blank place, in the tokens' dtype: T·M + P·(1-M) with M kept (section 3.3).

    blank_BL: bool. torch.where, not a product: a token that is not finite must not reach a place that drops it.
    """
    return torch.where(blank_BL[..., None], prompts_LE.to(tokens_BLE.dtype), tokens_BLE)


def resize_prompts(prompts_KNE: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Returns prompts or positional embeddings for another grid of patches, (K, new N, E), each depth by itself.

    prompts_KNE: floats, N patches in rows from the top left; grid, new_grid: rows and columns. Bicubic and antialiased,
    as open_clip resizes positional embeddings, so that both stay of one kind.
    """
    maps_KEhw = prompts_KNE.transpose(1, 2).unflatten(2, grid)
    resized = interpolate(maps_KEhw, new_grid, mode="bicubic", align_corners=False, antialias=True)
    return resized.flatten(2).transpose(1, 2).contiguous()


def resize_positions(
    parameter: torch.nn.Parameter, grid: tuple[int, int], new_grid: tuple[int, int]
) -> torch.nn.Parameter:
    """Returns prompts (K, N, E), or positions (L, E) whose first row is the class token's, for another grid."""
    values = parameter.detach()
    if values.ndim == 3:
        values = resize_prompts(values, grid, new_grid)
    else:
        values = torch.cat([values[:1], resize_prompts(values[None, 1:], grid, new_grid)[0]])
    return torch.nn.Parameter(values, requires_grad=parameter.requires_grad)


def set_trainable(model: MaskAdaptedClip, mode: str, train_logit_scale: bool) -> list[str]:
    """Sets requires_grad of every parameter for one stage of training; returns the names of those that train.

    mode: "full", the whole image tower (OVSeg's FT, Liang et al. CVPR 2023, section 3.2); "prompt", the prompts alone
    (its MPT, section 3.3); "joint", both; "alpha", image tower and alpha convolution (Alpha-CLIP, Sun et al. CVPR
    2024, section 3.2). The text tower never trains. Prompts that a model has stay as they are in mode full, which is
    the paper's prompt-then-full (Table 5). train_logit_scale: whether CLIP's temperature trains too, as it does in
    OVSeg's release in both stages. Raises UserError for an unknown mode and for a model that lacks its parts.
    """
    _check_mode(model, mode)
    model.requires_grad_(False)
    if mode != "prompt":
        model.visual.requires_grad_(True)
        _freeze_fixed_positions(model)
    if mode in ("prompt", "joint"):
        model.prompts.requires_grad_(True)
    if mode == "alpha":
        model.alpha_conv.requires_grad_(True)
    model.clip.logit_scale.requires_grad_(train_logit_scale)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _check_mode(model: MaskAdaptedClip, mode: str) -> None:
    if mode not in MODES:
        raise UserError(f"mode: wanted one of {', '.join(MODES)}, got {mode!r}")
    if mode in ("prompt", "joint") and model.prompts is None:
        raise UserError(f"mode {mode}: it trains mask prompts, and {model.name} has none; give a depth of 1 or more")
    if mode == "alpha" and model.alpha_conv is None:
        raise UserError(f"mode alpha: it trains an alpha channel, and {model.name} has none; open it with alpha")


def _freeze_fixed_positions(model: MaskAdaptedClip) -> None:
    """Sine and cosine positions are a formula, not weights; open_clip keeps them as a parameter all the same."""
    vision_cfg = model.origin.model_cfg["vision_cfg"] if model.origin else {}
    if vision_cfg.get("pos_embed_type") == "sin_cos_2d":
        model.visual.positional_embedding.requires_grad_(False)
