"""Tiny open_clip models on disk, in the formats that real weights come in. Seeded: the same bytes every time."""

import copy
import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def config(*, custom_text: bool = False, quick_gelu: bool = False, **text_cfg: object) -> dict:
    """CONFIG with changes: as CustomTextCLIP, with QuickGELU, or with other fields of the text tower."""
    changed = copy.deepcopy(CONFIG)
    changed["text_cfg"].update(text_cfg)
    changed.update({name: True for name, asked in (("custom_text", custom_text), ("quick_gelu", quick_gelu)) if asked})
    return changed


def build(model_cfg: dict = CONFIG, seed: int = 0) -> torch.nn.Module:
    """The model of a config with seeded weights, large enough that texts and images differ clearly."""
    arguments = copy.deepcopy(model_cfg)
    model_class = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = model_class(**arguments).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if "embedding" in name or name.endswith("conv1.weight"):
                weight.normal_(std=0.5)
    return model


def register(folder: Path, name: str = "tiny-clip", model_cfg: dict = CONFIG) -> str:
    """Makes a config an architecture that open_clip knows, by a JSON file in the folder; returns its name."""
    (folder / f"{name}.json").write_text(json.dumps(model_cfg))
    open_clip.add_model_config(folder / f"{name}.json")
    return name


def write_config(folder: Path, model_cfg: dict = CONFIG) -> Path:
    """open_clip_config.json, with a mean and deviation of its own."""
    preprocess_cfg = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}))
    return path


def write_folder(folder: Path, model_cfg: dict = CONFIG, seed: int = 0) -> Path:
    """A folder as open_clip publishes models: config and safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, model_cfg)
    save_file(_weights(model_cfg, seed), folder / "open_clip_model.safetensors")
    return folder


def write_state_dict(path: Path, model_cfg: dict = CONFIG, seed: int = 0) -> Path:
    """A plain state dict, as torch.save writes it."""
    torch.save(_weights(model_cfg, seed), path)
    return path


def write_training_checkpoint(path: Path, model_cfg: dict = CONFIG, seed: int = 0) -> Path:
    """A checkpoint of open_clip's trainer: epoch, and a state dict whose keys carry DDP's `module.`."""
    weights = {f"module.{name}": weight for name, weight in _weights(model_cfg, seed).items()}
    torch.save({"epoch": 5, "name": "tiny", "state_dict": weights}, path)
    return path


def _weights(model_cfg: dict, seed: int) -> dict[str, torch.Tensor]:
    return {name: weight.contiguous() for name, weight in build(model_cfg, seed).state_dict().items()}
