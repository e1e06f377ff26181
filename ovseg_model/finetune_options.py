"""Every option of finetuning once, with its unit and its reason; the command line is derived from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import UserError

STAGES: dict[str, tuple[str, ...]] = {
    "full": ("full",),
    "prompt": ("prompt",),
    "full-then-prompt": ("full", "prompt"),
    "prompt-then-full": ("prompt", "full"),
    "joint": ("joint",),
    "alpha": ("alpha",),
}
"""What each mode trains, stage by stage: OVSeg's FT, MPT and the orders of its Table 5, and Alpha-CLIP's channel."""

LOSSES = ("multi-positive", "paper")
GATHERS = ("grad", "paper")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def _option(default: Any, help_: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help_, "choices": choices})


@dataclass(frozen=True)
class FinetuneOptions:
    """How mask-adapted CLIP is trained; defaults are the paper's (Liang et al., CVPR 2023, sections 4.1 and A.4)."""

    mode: str = _option("full-then-prompt", "what trains, and in which order", tuple(STAGES))
    depth: int = _option(3, "blocks whose input mask prompts stand in; the paper's best is 3")
    epochs: int = _option(5, "passes over the pairs, in each stage")
    batch: int = _option(256, "pairs a step over all processes; the loss looks at all of them")
    micro_batch: int = _option(0, "pairs a forward and process; 0 takes all at once, fewer take less memory")
    full_learning_rate: float = _option(5e-6, "peak of the image tower, in modes full, joint and alpha")
    full_weight_decay: float = _option(0.2, "of matrices of the image tower")
    prompt_learning_rate: float = _option(2e-2, "peak of the mask prompts, which have no weight decay")
    warmup: int = _option(100, "steps from nothing to the peak learning rate; then half a cosine to zero")
    train_logit_scale: bool = _option(False, "train CLIP's temperature in stage prompt too, as OVSeg's release does")
    loss: str = _option(
        "multi-positive", "multi-positive: equal nouns of a batch are positives; paper: the rows", LOSSES
    )
    gather: str = _option("grad", "features over processes with their gradient, or as the paper without", GATHERS)
    hard_negatives: bool = _option(False, "add each pair's hard negatives to its softmax")
    whole_share: float = _option(0.0, "share of rows that show the whole image, against forgetting; Alpha-CLIP has 0.1")
    templates: str = _option("vild", "prompt templates of the nouns, as those of ovseg match")
    precision: str = _option("auto", "autocast: auto is bf16 on a GPU and fp32 on a CPU", PRECISIONS)
    grad_checkpointing: bool = _option(False, "compute activations again backwards: less memory, for one more forward")
    compile: bool = _option(False, "torch.compile the image tower")
    workers: int = _option(2, "processes that read and cut images ahead")
    seed: int = _option(0, "of shuffling, augmentation, prompts and the cap")
    save_every: int = _option(200, "steps between checkpoints")
    log_every: int = _option(20, "steps between rows of the log")

    def __post_init__(self) -> None:
        """Refuses values that no training can work with; raises UserError."""
        least = {"epochs": 1, "batch": 2, "micro_batch": 0, "warmup": 0, "workers": 0, "save_every": 1, "log_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{_flag(name)}: wanted {value} or more, got {getattr(self, name)}")
        for name in ("full_learning_rate", "prompt_learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{_flag(name)}: wanted more than 0, got {getattr(self, name)}")
        if not 0 <= self.whole_share < 1:
            raise UserError(f"--whole-share: wanted 0 or more and less than 1, got {self.whole_share}")
        if self.trains_prompts and self.depth < 1:
            raise UserError(f"--depth: mode {self.mode} trains mask prompts; wanted 1 or more, got {self.depth}")
        for each in dataclasses.fields(self):
            choices = each.metadata["choices"]
            if choices and getattr(self, each.name) not in choices:
                got = getattr(self, each.name)
                raise UserError(f"{_flag(each.name)}: wanted one of {', '.join(choices)}, got {got!r}")

    @property
    def trains_prompts(self) -> bool:
        """Whether any stage has mask prompts."""
        return bool({"prompt", "joint"} & set(STAGES.get(self.mode, ())))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
