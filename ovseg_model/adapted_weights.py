"""Files of mask-adapted CLIP: our own safetensors, checkpoints that plain open_clip loads, and OVSeg's releases.

A file is whole or absent, and nothing that is read runs code: safetensors, or torch.load with weights_only.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import dataclasses
import json
import os
import pickle
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ovseg_model.clip import (
    ADAPTED_TAG,
    BPE_FILE,
    CHECKPOINT_TAG,
    CONFIG_FILE,
    LOCAL_FOLDER,
    SAFE_FILE,
    Clip,
    ClipWeights,
    check_architecture,
    check_file,
    create_model,
    file_sha256,
    first_line,
    is_torchscript,
    load_weights,
    misfit,
    open_tokenizer,
)
from ovseg_model.mask_adapted_clip import MaskAdaptedClip
from schemas.errors import UserError

FORMAT_VERSION = 1

METADATA_KEY = "mask_adapted_clip"
"""The one key of a file's metadata, JSON: with several, safetensors writes them in an order that changes by itself."""

PROMPT_KEY = "visual.mask_embedding"
"""OVSeg's name of the prompts."""

OVSEG_PREFIX = "clip_adapter.clip_model."
"""Before the names of CLIP's weights in a full OVSeg model."""


@dataclass(frozen=True)
class ClipOrigin:
    """The CLIP that was adapted: all that builds it again, with its tokenizer, on another machine."""

    name: str
    """ARCHITECTURE/TAG, or a checkpoint's name, as `ClipWeights.name`."""

    sha256: str
    """Of the weights that adaptation started from."""

    architecture: str | None
    """open_clip's name; None for a model that a file of its own describes."""

    model_cfg: dict[str, Any]
    """open_clip's configuration of the model, QuickGELU said."""

    preprocess_cfg: dict[str, Any]
    """open_clip's configuration of its input: mean, std and the like."""

    meaningless: bool = False
    """Whether the weights that adaptation started from were random; it goes on to all that the model puts out."""

    bpe_merges: str | None = None
    """The tokenizer's own merges, the gzip file in base64; None for open_clip's usual tokenizer."""


# From CLIP.


def adapt_clip(weights: ClipWeights, depth: int = 0, alpha: bool = False, seed: int = 0) -> MaskAdaptedClip:
    """Opens resolved weights, float32 on the CPU, with fresh prompts or alpha as `MaskAdaptedClip` takes them.

    Raises UserError for weights that do not fit, for a model that cannot be adapted so, and for one that was adapted
    by prompts or alpha already: a stage more belongs to the training that made them.
    """
    if weights.tag == ADAPTED_TAG:
        return _adapt_further(weights, depth, alpha, seed)
    clip = create_model(weights, "fp32")
    if weights.path is not None:
        load_weights(clip, weights)
    return MaskAdaptedClip(clip, depth, alpha, seed, _origin(weights, clip))


def _adapt_further(weights: ClipWeights, depth: int, alpha: bool, seed: int) -> MaskAdaptedClip:
    """A fully finetuned CLIP with fresh prompts or alpha."""
    check_file(weights)
    path = weights.path or ""
    before = load_adapted(path)
    if before.depth or before.alpha_conv is not None:
        raise UserError(
            f"CLIP {path}: has {'prompts' if before.depth else 'an alpha channel'} already; give the CLIP that it was "
            "trained from, and --mode full-then-prompt or prompt-then-full for both"
        )
    origin = dataclasses.replace(before.origin, name=weights.name, sha256=weights.sha256)
    return MaskAdaptedClip(before.clip, depth, alpha, seed, origin)


def _origin(weights: ClipWeights, clip: torch.nn.Module) -> ClipOrigin:
    described = weights.architecture.startswith(LOCAL_FOLDER)
    model_cfg = copy.deepcopy(open_clip.get_model_config(weights.architecture))
    if open_clip.get_pretrained_cfg(weights.architecture, weights.tag).get("quick_gelu"):
        model_cfg["quick_gelu"] = True
    # Through JSON, so that an origin equals the one that comes back from a file: no tuples.
    preprocess_cfg = json.loads(json.dumps(open_clip.get_model_preprocess_cfg(clip)))
    return ClipOrigin(
        name=weights.name,
        sha256=weights.sha256,
        architecture=None if described else weights.architecture,
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        meaningless=weights.meaningless,
        bpe_merges=_merges_beside(weights.architecture.removeprefix(LOCAL_FOLDER)) if described else None,
    )


def _merges_beside(folder: str) -> str | None:
    path = os.path.join(folder, BPE_FILE)
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def adapted_tokenizer(origin: ClipOrigin) -> Callable[[Sequence[str]], torch.Tensor]:
    """Returns the tokenizer of the adapted model: texts to int64 (T, L). Raises UserError when its files are away."""
    with _opened_as(origin) as weights:
        return open_tokenizer(weights)


@contextlib.contextmanager
def _described(origin: ClipOrigin) -> Iterator[ClipWeights]:
    """The origin as a folder that open_clip builds models and tokenizers from, for the time of the with block."""
    with tempfile.TemporaryDirectory() as folder:
        _write_description(origin, folder)
        yield _named(origin, LOCAL_FOLDER + folder)


def _write_description(origin: ClipOrigin, folder: str) -> None:
    config = {"model_cfg": origin.model_cfg, "preprocess_cfg": origin.preprocess_cfg}
    with whole_file(os.path.join(folder, CONFIG_FILE)) as part, open(part, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    if origin.bpe_merges is not None:
        with whole_file(os.path.join(folder, BPE_FILE)) as part, open(part, "wb") as file:
            file.write(base64.b64decode(origin.bpe_merges))


def _named(origin: ClipOrigin, architecture: str) -> ClipWeights:
    """The origin as weights without a file, for the functions of clip.py that build by architecture."""
    return ClipWeights(origin.name, architecture, CHECKPOINT_TAG, None, origin.sha256, 0, origin.meaningless)


def _build(origin: ClipOrigin) -> torch.nn.Module:
    with _described(origin) as weights:
        return create_model(weights, "fp32")


# Our own files.


def save_adapted(model: MaskAdaptedClip, path: str, notes: Mapping[str, Any] | None = None) -> None:
    """Writes a model as one .safetensors file that `load_adapted` opens anywhere; the same model gives the same bytes.

    notes: what the caller wants to remember, such as the training run; plain values. Raises UserError for another
    suffix, ValueError for a model that does not know its origin.
    """
    _check_suffix(path)
    description = {
        "format_version": FORMAT_VERSION,
        "origin": dataclasses.asdict(_current_origin(model)),
        "depth": model.depth,
        "alpha": model.alpha_conv is not None,
        "notes": dict(notes or {}),
    }
    _write_tensors(model.state_dict(), path, {METADATA_KEY: json.dumps(description, sort_keys=True)})


def _check_suffix(path: str) -> None:
    if not path.endswith(".safetensors"):
        raise UserError(f"adapted CLIP: wanted a file that ends in .safetensors, got {path}")


def _current_origin(model: MaskAdaptedClip) -> ClipOrigin:
    """The origin with the input size that the model has now."""
    if model.origin is None:
        raise ValueError("adapted CLIP: wanted a model with an origin, as adapt_clip makes it, got one without")
    model_cfg = copy.deepcopy(model.origin.model_cfg)
    model_cfg["vision_cfg"]["image_size"] = model.image_size_px
    return dataclasses.replace(model.origin, model_cfg=model_cfg)


def _write_tensors(tensors: Mapping[str, torch.Tensor], path: str, metadata: dict[str, str] | None = None) -> None:
    with whole_file(path) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
    """Yields the name to write under; the file gets its own name when all is written, or none if that fails."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    part = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def load_adapted(path: str) -> MaskAdaptedClip:
    """Opens what `save_adapted` wrote: float32, on the CPU, every value as it was.

    Raises UserError for a file that is not there, is not ours, is damaged or of another version.
    """
    description = read_description(path)
    origin = ClipOrigin(**description["origin"])
    model = MaskAdaptedClip(_build(origin), description["depth"], description["alpha"], origin=origin)
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"adapted CLIP {path}: its weights do not fit its description: {misfit(error)}") from error
    return model


def load_adapted_clip(weights: ClipWeights, device: str, precision: str, image_batch: int, text_batch: int) -> Clip:
    """Opens a resolved mask-adapted CLIP, for `clip.load_clip`, which says the rest. Raises UserError as it does."""
    check_file(weights)
    adapted = load_adapted(weights.path or "").to(device).eval().requires_grad_(False)
    with _opened_as(adapted.origin) as described:
        tokenizer = open_tokenizer(described)
        named = dataclasses.replace(weights, architecture=described.architecture)
        clip = Clip(adapted.clip, tokenizer, named, device, precision, image_batch, text_batch, adapted)
    clip.weights = weights  # a described folder is gone by now, and fingerprints are free of paths
    return clip


@contextlib.contextmanager
def _opened_as(origin: ClipOrigin) -> Iterator[ClipWeights]:
    """The origin by open_clip's name for it, or as a folder for the time of the with block."""
    if origin.architecture in open_clip.list_models():
        yield _named(origin, origin.architecture)
        return
    with _described(origin) as described:
        yield described


def is_adapted(path: str) -> bool:
    """Whether a file says that it is a mask-adapted CLIP; nothing but its header is read."""
    if not (path.endswith(".safetensors") and os.path.isfile(path)):
        return False
    try:
        with safe_open(path, "pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def read_description(path: str) -> dict[str, Any]:
    """Returns what a file says of itself: format_version, origin (as in `ClipOrigin`), depth, alpha and notes.

    Raises UserError as `load_adapted`.
    """
    if not os.path.isfile(path):
        raise UserError(f"adapted CLIP: there is no file {path}; give one that training or import wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(
            f"adapted CLIP {path}: wanted safetensors, {first_line(error)}; the file is damaged or of another kind"
        ) from error
    if METADATA_KEY not in metadata:
        raise UserError(
            f"adapted CLIP {path}: wanted metadata {METADATA_KEY}, found {', '.join(sorted(metadata)) or 'none'}; it "
            "is another model's file; a plain CLIP is opened as --clip"
        )
    description = json.loads(metadata[METADATA_KEY])
    if description["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"adapted CLIP {path}: wanted format version {FORMAT_VERSION}, got {description['format_version']}; open "
            "it with the version of this tool that wrote it"
        )
    return description


# For open_clip.


def export_open_clip(model: MaskAdaptedClip, path: str, drop_prompts: bool = False) -> None:
    """Writes the CLIP alone, for plain open_clip: as a file, or as a folder that describes its model too.

    path: a .safetensors file, for `open_clip.create_model(exported_architecture(origin), pretrained=path)`; any other
    name is a folder, for `create_model("local-dir:" + path)`. drop_prompts: that prompts and alpha convolution are
    lost is meant. Raises UserError when they would be lost unasked.
    """
    _check_nothing_is_lost(model, drop_prompts)
    if path.endswith(".safetensors"):
        _write_tensors(model.clip.state_dict(), path)
        return
    os.makedirs(path, exist_ok=True)
    _write_description(_current_origin(model), path)
    _write_tensors(model.clip.state_dict(), os.path.join(path, SAFE_FILE))


def _check_nothing_is_lost(model: MaskAdaptedClip, drop_prompts: bool) -> None:
    kept = f"prompts of depth {model.depth}" if model.depth else "alpha convolution" if model.alpha_conv else None
    if kept and not drop_prompts:
        raise UserError(
            f"export of {model.name}: open_clip has no place for its {kept}, and they would be lost; export a model "
            "that was fully finetuned, or say that this is meant (drop_prompts)"
        )


def exported_architecture(origin: ClipOrigin) -> str | None:
    """Returns open_clip's name for an exported file, its -quickgelu form where weights need that; None if it has none.

    open_clip 3.3 does not notice when weights of a QuickGELU model meet an architecture without.
    """
    if origin.architecture is None:
        return None
    plain = open_clip.get_model_config(origin.architecture) or {}
    quick = bool(origin.model_cfg.get("quick_gelu")) and not plain.get("quick_gelu")
    return f"{origin.architecture}-quickgelu" if quick else origin.architecture


# From OVSeg.


def import_ovseg(path: str, architecture: str, expect_prompts: bool = True, quick_gelu: bool = True) -> MaskAdaptedClip:
    """Opens a checkpoint of OVSeg: of its CLIP training, or a full OVSeg model, of which only the CLIP is read.

    path: `state_dict` (keys with or without `module.`), or `model` with CLIP under `clip_adapter.clip_model.`;
    prompts as `visual.mask_embedding`, (K, N, E) or one vector for all places, (K, 1, E). architecture: open_clip's
    name, ViT-L-14 or ViT-B-16 for the released ones. expect_prompts: False for a CLIP before mask prompt tuning.
    quick_gelu: all that OVSeg trained use it. Raises UserError for a file of another layout, one that does not fit,
    and one whose prompts are missing or unexpected.
    """
    check_architecture(architecture)
    tensors = _clip_tensors(_read_checkpoint(path), path)
    prompts_KNE = tensors.pop(PROMPT_KEY, None)
    _check_prompts(prompts_KNE, expect_prompts, path)
    origin = _ovseg_origin(path, architecture, quick_gelu)
    depth = 0 if prompts_KNE is None else len(prompts_KNE)
    model = MaskAdaptedClip(_build(origin), depth, origin=origin)
    try:
        model.clip.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"OVSeg checkpoint {path} does not fit {architecture}: {misfit(error)}; give the architecture that it was "
            "trained with"
        ) from error
    if prompts_KNE is not None:
        _set_prompts(model, prompts_KNE, path)
    return model


def _ovseg_origin(path: str, architecture: str, quick_gelu: bool) -> ClipOrigin:
    model_cfg = {**open_clip.get_model_config(architecture), "quick_gelu": quick_gelu}
    name = f"{architecture}/{os.path.basename(path)}"
    pixels = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    return ClipOrigin(name, file_sha256(path), architecture, model_cfg, pixels)


def _read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint of torch.save, tensors and plain values alone."""
    if not os.path.isfile(path):
        raise UserError(f"OVSeg checkpoint: there is no file {path}; give one that exists")
    if is_torchscript(path):
        raise UserError(f"OVSeg checkpoint {path} is a TorchScript archive, a program; OVSeg publishes state dicts")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"OVSeg checkpoint {path}: is damaged, or holds Python objects beside tensors and is not opened "
            f"({first_line(error)[:120]})"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"OVSeg checkpoint {path}: wanted a dictionary, got {type(checkpoint).__name__}")
    return checkpoint


def _clip_tensors(checkpoint: Mapping[str, Any], path: str) -> dict[str, torch.Tensor]:
    """CLIP's weights and prompts under open_clip's names, which for a ViT are OpenAI's."""
    if "state_dict" in checkpoint:
        return {name.removeprefix("module."): tensor for name, tensor in checkpoint["state_dict"].items()}
    found = {
        name.removeprefix(OVSEG_PREFIX): tensor
        for name, tensor in checkpoint.get("model", {}).items()
        if name.startswith(OVSEG_PREFIX)
    }
    if not found:
        raise UserError(
            f"OVSeg checkpoint {path}: wanted `state_dict`, or `model` with weights under {OVSEG_PREFIX}, found "
            f"{', '.join(sorted(map(str, checkpoint))[:5]) or 'nothing'}; other checkpoints are opened as --clip"
        )
    return found


def _check_prompts(prompts_KNE: torch.Tensor | None, expect_prompts: bool, path: str) -> None:
    if prompts_KNE is None and expect_prompts:
        raise UserError(
            f"OVSeg checkpoint {path}: wanted prompts, {PROMPT_KEY}, found none: it is a CLIP before mask prompt "
            "tuning; import it without prompts (expect_prompts=False), or give the tuned one"
        )
    if prompts_KNE is not None and not expect_prompts:
        raise UserError(
            f"OVSeg checkpoint {path}: wanted no prompts, found {PROMPT_KEY} {tuple(prompts_KNE.shape)}; it was tuned "
            "with them; import it with prompts"
        )


def _set_prompts(model: MaskAdaptedClip, prompts_KNE: torch.Tensor, path: str) -> None:
    """Fills the model's prompts; one vector for all places is spread over them."""
    wanted = tuple(model.prompts.shape)
    if tuple(prompts_KNE.shape) not in (wanted, (wanted[0], 1, wanted[2])):
        raise UserError(
            f"OVSeg checkpoint {path}: wanted prompts {wanted} for {model.name}, got {tuple(prompts_KNE.shape)}"
        )
    with torch.no_grad():
        model.prompts.copy_(prompts_KNE)
