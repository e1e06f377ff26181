"""Every option of training a proposal network once, with its unit and its reason; the command line is derived."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")


def _option(default: Any, help_: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help_, "choices": choices})


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "swin-b": {},
    "r101": {
        "clip": "ViT-B-16/openai",
        "init": "microsoft/resnet-101",
        "learning_rate": 2e-4,
        "weight_decay": 1e-4,
        "backbone_rate": 0.1,
        "crop_px": 512,
        "max_side_px": 2048,
    },
    "tiny": {
        "clip": "scenes",
        "init": "",
        "steps": 1500,
        "batch": 8,
        "learning_rate": 1e-3,
        "warmup": 20,
        # Under the paper's 0.01, for pretrained backbones, masks stood still for 400 steps; see docs/proposals.md.
        "clip_norm": 1.0,
        "queries": 10,
        "crop_px": 64,
        "max_side_px": 256,
        "workers": 0,
        "save_every": 100,
        "log_every": 10,
    },
}
"""What presets have other than the defaults: the paper's second network, and one for drawn scenes on a CPU."""


@dataclass(frozen=True)
class ProposalTrainingOptions:
    """How a proposal network is trained; defaults are OVSeg's Swin-B for ViT-L/14 (CVPR 2023, sections 4.1 and A.4)."""

    preset: str = _option("swin-b", "architecture, and defaults of what is not given", tuple(PRESETS))
    clip: str = _option("ViT-L-14/openai", "CLIP whose text tower makes the class vectors, as --clip of ovseg match")
    templates: str = _option("vild", "prompt templates of the class names, as those of ovseg match")
    init: str = _option(
        "microsoft/swin-base-patch4-window12-384-in22k",
        "weights to begin with: a Swin or ResNet backbone, or a MaskFormer; a folder or a Hugging Face id; empty: none",
    )
    steps: int = _option(120_000, "steps of training")
    batch: int = _option(32, "crops a step, over all processes")
    learning_rate: float = _option(6e-5, "peak, falling to zero by (1 - step / steps) ^ 0.9")
    backbone_rate: float = _option(1.0, "learning rate of the backbone over the rest's")
    weight_decay: float = _option(0.01, "of all weights but norms, embeddings and tables of positions")
    warmup: int = _option(1500, "steps from a millionth of the learning rate to all of it")
    clip_norm: float = _option(0.01, "largest norm of the whole model's gradient")
    queries: int = _option(100, "masks that the network proposes")
    crop_px: int = _option(640, "side of a crop, and short side at which images are read afterwards")
    max_side_px: int = _option(2560, "long side of a resized image at most")
    colour: bool = _option(True, "distort colours, as SSD does")
    precision: str = _option("auto", "autocast of the network: auto is bf16 on a GPU and fp32 on a CPU", PRECISIONS)
    workers: int = _option(4, "processes that make crops ahead")
    seed: int = _option(0, "of the first weights, the order, crops and dropout")
    save_every: int = _option(1000, "steps between checkpoints")
    log_every: int = _option(50, "steps between rows of the log")

    def __post_init__(self) -> None:
        """Refuses values that no training can work with; raises UserError."""
        least = {"steps": 1, "batch": 1, "warmup": 0, "queries": 1, "crop_px": 32, "max_side_px": 32, "workers": 0}
        for name, value in {**least, "save_every": 1, "log_every": 1}.items():
            if getattr(self, name) < value:
                raise UserError(f"{_flag(name)}: wanted {value} or more, got {getattr(self, name)}")
        for name in ("learning_rate", "backbone_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{_flag(name)}: wanted more than 0, got {getattr(self, name)}")
        if self.crop_px % 32:
            raise UserError(f"--crop-px: wanted a multiple of 32, got {self.crop_px}")
        for each in dataclasses.fields(self):
            choices = each.metadata["choices"]
            if choices and getattr(self, each.name) not in choices:
                got = getattr(self, each.name)
                raise UserError(f"{_flag(each.name)}: wanted one of {', '.join(choices)}, got {got!r}")


def with_preset(given: Mapping[str, Any]) -> ProposalTrainingOptions:
    """Returns the options of a preset, but for what is given. Raises UserError for an unknown preset."""
    preset = given.get("preset", "swin-b")
    return ProposalTrainingOptions(**{**PRESETS.get(preset, {}), **given})


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


WARMUP_FACTOR, POLY_POWER = 1e-6, 0.9


def learning_rate_share(step: int, options: ProposalTrainingOptions) -> float:
    """Returns the share of the peak learning rate at a step, counted from 0: linear warm-up times polynomial decay."""
    ready = min(1.0, step / options.warmup) if options.warmup else 1.0
    warm = WARMUP_FACTOR + (1 - WARMUP_FACTOR) * ready
    return warm * (1 - step / options.steps) ** POLY_POWER
