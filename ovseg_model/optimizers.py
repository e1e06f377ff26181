"""AdamW with the paper's groups, and its learning rate: linear warm-up, then cosine to zero, step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

BETAS, EPS = (0.9, 0.98), 1e-6
"""Of AdamW, as OVSeg and open_clip set them for ViTs."""


def weight_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]], learning_rate: float, weight_decay: float
) -> list[dict[str, object]]:
    """Returns AdamW's parameter groups of what trains, one with weight decay and one without; an empty one is left out.

    Without decay are biases, LayerNorm weights, the temperature and everything else of fewer than two dimensions
    (Liang et al., CVPR 2023, section 4.1), and mask prompts.
    """
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    decayed = [parameter for name, parameter in trained if decays(name, parameter)]
    plain = [parameter for name, parameter in trained if not decays(name, parameter)]
    groups = [
        {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": plain, "lr": learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter, by its dotted name."""
    return parameter.ndim >= 2 and name.rpartition(".")[2] != "prompts"


def adamw(groups: list[dict[str, object]], device: str) -> torch.optim.AdamW:
    """The optimiser; fused, which CPUs and GPUs both have."""
    import torch

    return torch.optim.AdamW(groups, betas=BETAS, eps=EPS, fused=device.split(":")[0] in ("cpu", "cuda"))


def learning_rate_share(step: int, steps: int, warmup: int) -> float:
    """Returns the share of the peak learning rate at a step, counted from 0, of a schedule of `steps`.

    Linear from 1/warmup to 1, then half a cosine that would reach 0 at `steps`. A warm-up longer than the schedule is
    all there is of it.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
