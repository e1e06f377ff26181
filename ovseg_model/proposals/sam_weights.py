"""Where SAM's weights come from, and the model that they fit: sizes are read off the checkpoint itself.

A checkpoint is a state dict with segment-anything's names, as its project publishes (ViT-B, L and H), or as training
by it saves: .pth, or .safetensors. Encoders of other kinds (MobileSAM's) are made by a factory of the user's.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovseg_model.clip import file_sha256, first_line, misfit
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam

PUBLISHED = {"vit_b": "sam_vit_b_01ec64.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_h": "sam_vit_h_4b8939.pth"}
"""The files of the segment-anything project."""

MODEL_TYPES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""By channels of the encoder; another width has the name "vit"."""

DECODER_HEADS = 8
"""Of every SAM's decoder: the one size that a state dict does not show."""

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""RGB in 0..255."""

WANTED = "mask_decoder.mask_tokens.weight"
"""A name that every SAM has, and nothing else."""


@dataclass(frozen=True)
class SamWeights:
    """Resolved weights: small and picklable, so that a worker opens exactly what the launcher found."""

    path: str
    sha256: str
    model_type: str
    """vit_b, vit_l, vit_h, vit for another width, or the name of an encoder's factory."""
    image_encoder: str = ""
    """package.module:factory of an encoder that is no ViT of segment-anything."""

    def fingerprint(self) -> dict[str, str]:
        """What decides the model, free of paths."""
        return {"model": self.model_type, "sha256": self.sha256}


def resolve_sam(checkpoint: str, model_type: str = "auto", image_encoder: str = "") -> SamWeights:
    """Finds a checkpoint and builds its model once, so that one that does not fit stops the run before it starts.

    model_type: auto, or the type the checkpoint must have. Raises UserError for a file that is not there, is damaged,
    or does not fit.
    """
    path = checkpoint_file(checkpoint, model_type)
    weights = SamWeights(path, file_sha256(path), "", image_encoder)
    tensors = read_checkpoint(path)
    found = image_encoder or type_of(tensors)
    if model_type not in ("auto", found):
        raise UserError(f"sam: {path} holds a {found}, and option model_type wants {model_type}; leave model_type away")
    build_sam(tensors, weights)
    return SamWeights(path, weights.sha256, found, image_encoder)


def load_sam(weights: SamWeights) -> Sam:
    """Returns the model of resolved weights, float32 on the CPU."""
    return build_sam(read_checkpoint(weights.path), weights)


def checkpoint_file(checkpoint: str, model_type: str = "auto") -> str:
    """Returns the path of a checkpoint, given as a path or by its type where the published file lies here.

    Raises UserError, with the name of the file to download, where there is none.
    """
    path = os.path.abspath(os.path.expanduser(PUBLISHED.get(checkpoint, checkpoint)))
    if os.path.isfile(path):
        return path
    kind = checkpoint if checkpoint in PUBLISHED else model_type
    file = PUBLISHED.get(kind, PUBLISHED["vit_h"])
    raise UserError(
        f"sam: there is no file {path}; download {file} (ViT-{file[8].upper()}) from the segment-anything project, "
        "and give its path in --mask-option checkpoint=PATH"
    )


def read_checkpoint(path: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of a checkpoint; no pickled code is run.

    Raises UserError for a file that is no state dict of SAM.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        safe = path.endswith(".safetensors")
        found = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, SafetensorError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"sam: {path} is damaged, or holds Python objects beside tensors and is not opened "
            f"({first_line(error)[:120]}); download it again"
        ) from error
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, Mapping) or WANTED not in found:
        raise UserError(
            f"sam: {path} is no checkpoint of SAM: it has no {WANTED}; wanted segment-anything's names, as in "
            f"{PUBLISHED['vit_b']}"
        )
    return dict(found)


def type_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Returns the model's type by its encoder's width. Raises UserError where the encoder is no ViT."""
    return MODEL_TYPES.get(_size(tensors, "image_encoder.pos_embed", 3), "vit")


def build_sam(tensors: Mapping[str, torch.Tensor], weights: SamWeights) -> Sam:
    """Returns segment-anything's model for a state dict, loaded strictly. Raises UserError where it does not fit."""
    import torch
    from segment_anything.modeling import Sam

    try:
        with torch.device("cpu" if weights.image_encoder else "meta"):
            encoder = _made(weights.image_encoder) if weights.image_encoder else vit_for(tensors)
        with torch.device("meta"):  # nothing is drawn only to be overwritten
            parts = prompt_encoder_for(tensors, int(encoder.img_size)), mask_decoder_for(tensors)
        sam = Sam(encoder, *parts, PIXEL_MEAN, PIXEL_STD)
        sam.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError, AssertionError, AttributeError, ZeroDivisionError) as error:
        wanted = f"the encoder of {weights.image_encoder}" if weights.image_encoder else "segment-anything's model"
        raise UserError(f"sam: {weights.path} does not fit {wanted}: {misfit(error)}") from error
    return sam.float().eval().requires_grad_(False)


def vit_for(tensors: Mapping[str, torch.Tensor]) -> ImageEncoderViT:
    """Returns an encoder of a state dict's sizes, its weights not loaded."""
    import torch
    from segment_anything.modeling import ImageEncoderViT

    size = functools.partial(_size, tensors)
    width, grid = size("image_encoder.pos_embed", 3), size("image_encoder.pos_embed", 1)
    depth = _count(tensors, "image_encoder.blocks.")
    reaches = [size(f"image_encoder.blocks.{block}.attn.rel_pos_h", 0) for block in range(depth)]
    windows = [(reach + 1) // 2 for reach in reaches if reach != 2 * grid - 1]
    patch = size("image_encoder.patch_embed.proj.weight", 3)
    return ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // size("image_encoder.blocks.0.attn.rel_pos_h", 1),
        mlp_ratio=size("image_encoder.blocks.0.mlp.lin1.weight", 0) / width,
        out_chans=size("image_encoder.neck.0.weight", 0),
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=max(windows, default=0),
        global_attn_indexes=tuple(block for block in range(depth) if reaches[block] == 2 * grid - 1),
    )


def prompt_encoder_for(tensors: Mapping[str, torch.Tensor], side_px: int) -> PromptEncoder:
    """Returns a prompt encoder of a state dict's sizes; an image token covers 16 x 16 pixels in every SAM."""
    from segment_anything.modeling import PromptEncoder

    channels = _size(tensors, "prompt_encoder.no_mask_embed.weight", 1)
    mask_channels = _size(tensors, "prompt_encoder.mask_downscaling.3.weight", 0)
    return PromptEncoder(channels, (side_px // 16,) * 2, (side_px,) * 2, mask_channels)


def mask_decoder_for(tensors: Mapping[str, torch.Tensor]) -> MaskDecoder:
    """Returns a mask decoder of a state dict's sizes."""
    from segment_anything.modeling import MaskDecoder, TwoWayTransformer

    channels = _size(tensors, WANTED, 1)
    depth = _count(tensors, "mask_decoder.transformer.layers.")
    hidden = _size(tensors, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 0)
    return MaskDecoder(
        transformer_dim=channels,
        transformer=TwoWayTransformer(depth, channels, DECODER_HEADS, hidden),
        num_multimask_outputs=_size(tensors, WANTED, 0) - 1,
        iou_head_depth=_count(tensors, "mask_decoder.iou_prediction_head.layers."),
        iou_head_hidden_dim=_size(tensors, "mask_decoder.iou_prediction_head.layers.0.weight", 0),
    )


def _size(tensors: Mapping[str, torch.Tensor], name: str, axis: int) -> int:
    if name in tensors and tensors[name].ndim > axis:
        return tensors[name].shape[axis]
    if name.startswith("image_encoder."):
        raise UserError(
            f"sam: the checkpoint has no {name}, so its encoder is no ViT of segment-anything; one of another kind is "
            "made by --mask-option image_encoder=package.module:factory"
        )
    raise UserError(f"sam: the checkpoint has no {name}, and is no SAM; wanted one as {PUBLISHED['vit_b']}")


def _count(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Layers whose names begin with a prefix and their number."""
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _made(factory: str) -> torch.nn.Module:
    """An encoder of the user's. Raises UserError where there is no such factory or it fails."""
    module, _, name = factory.partition(":")
    try:
        encoder = _callable(module, name)()
    except Exception as error:  # whatever a user's code raises
        raise UserError(
            f"sam: option image_encoder wants package.module:factory of something that returns a torch module; "
            f"{factory!r} gave {type(error).__name__}: {first_line(error)}"
        ) from error
    if not hasattr(encoder, "img_size"):
        raise UserError(
            f"sam: the encoder of {factory} has no img_size, the side in pixels of the square it reads; see "
            "ImageEncoder in ovseg_model/proposals/sam_encoder.py"
        )
    return encoder


def _callable(module: str, name: str) -> Callable[[], torch.nn.Module]:
    return getattr(importlib.import_module(module), name)
