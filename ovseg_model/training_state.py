"""Mask-adapted CLIP in training: one step on a batch of pairs, and the state that a checkpoint holds.

Array names end in their axes: B pairs of a process, G pairs of all processes, V nouns, H hard negatives of a pair, S
side of the input, D dimensions of the shared space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from ovseg_model.cached_backward import cached_backward
from ovseg_model.finetune_options import STAGES, FinetuneOptions
from ovseg_model.loss import gather_with_grad, gather_without_grad, multi_positive_info_nce
from ovseg_model.mask_adapted_clip import MaskAdaptedClip, set_trainable
from ovseg_model.optimizers import adamw, weight_groups
from ovseg_model.pair_batches import PairBatch
from ovseg_model.processes import Processes
from ovseg_model.regions import normalise
from ovseg_model.training_texts import Texts

MOST_LOGIT_SCALE = math.log(100)
"""CLIP's bound on its temperature (Radford et al., ICML 2021)."""


@dataclass
class Progress:
    """Where training is: the next batch to learn from."""

    epoch: int = 0
    """Over all stages, which have the same number each; shuffling and augmentation depend on it."""

    batches: int = 0
    """Learnt from in this epoch."""

    step: int = 0
    """Over all stages."""


Negatives = tuple[torch.Tensor, torch.Tensor]
"""Hard negatives as numbers of nouns, int64 (B, H), and which of them are there, bool (B, H)."""


class TrainingState:
    """A model in training: what one step needs, and what a checkpoint holds."""

    def __init__(
        self,
        options: FinetuneOptions,
        model: MaskAdaptedClip,
        mean_std: tuple[Sequence[float], Sequence[float]],
        texts: Texts,
        processes: Processes,
    ) -> None:
        """Call `begin_stage` or `restore` next. model: CLIP as it is; it gets prompts when a stage trains them.

        mean_std: of the model's input, RGB in 0..1.
        """
        self.options, self.model, self.texts, self.processes = options, model.to(processes.device), texts, processes
        self.stages = STAGES[options.mode]
        self.at = Progress()
        self._mean, self._std = mean_std
        self._precision = options.precision
        if self._precision == "auto":
            self._precision = "bf16" if processes.kind == "cuda" else "fp32"
        self._scaler = torch.amp.GradScaler(processes.kind, enabled=self._precision == "fp16")
        self.model.set_grad_checkpointing(options.grad_checkpointing)

    @property
    def stage_number(self) -> int:
        """Which of `stages` training is in; their number once it is done."""
        return self.at.epoch // self.options.epochs

    @property
    def stage(self) -> str:
        """The stage's name; the last one's once training is done."""
        return self.stages[min(self.stage_number, len(self.stages) - 1)]

    def begin_stage(self) -> None:
        """Decides what trains and starts an optimiser for it.

        Prompts come with the first stage that trains them: finetuning before it must not see blank patches as noise.
        """
        options = self.options
        if self.stage in ("prompt", "joint") and self.model.prompts is None:
            self.model.add_prompts(options.depth, options.seed)
        train_scale = self.stage != "prompt" or options.train_logit_scale
        self.trained = set_trainable(self.model, self.stage, train_scale)
        self.optimizer = adamw(self._groups(), self.processes.device)
        self._encoder = self.processes.wrap(self.model, options.compile)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups, each with its peak learning rate as `peak`: prompts have one of their own."""
        options, named = self.options, list(self.model.named_parameters())
        prompts = weight_groups([each for each in named if each[0] == "prompts"], options.prompt_learning_rate, 0.0)
        rest = [each for each in named if each[0] != "prompts"]
        rate = options.prompt_learning_rate if self.stage == "prompt" else options.full_learning_rate
        groups = [*prompts, *weight_groups(rest, rate, options.full_weight_decay)]
        return [{**group, "peak": group["lr"]} for group in groups]

    def learn(self, batch: PairBatch, share: float) -> float:
        """Takes one step on this process's part of a global batch; returns the whole batch's loss, in nats.

        share: of the peak learning rates. Raises FloatingPointError, before any weight changes, for a loss or a
        gradient that is not finite; fp16 skips such a step and lowers its scale instead.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        loss = self._backward(batch)
        self._require_finite(loss)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        if self.model.clip.logit_scale.requires_grad:
            with torch.no_grad():
                self.model.clip.logit_scale.clamp_(0, MOST_LOGIT_SCALE)
        self.at.step += 1
        self.at.batches += 1
        return loss

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of step {self.at.step} is {loss}")
        if self._precision == "fp16":
            return
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {self.at.step} has the norm {norm}")

    def _backward(self, batch: PairBatch) -> float:
        """Adds the gradients of the whole batch's loss; returns the loss."""
        size = self.options.micro_batch or len(batch)
        micro_batches = [slice(start, start + size) for start in range(0, len(batch), size)]
        numbers_B, texts_BD = self.texts.of(batch)
        negatives = self._negatives(batch) if self.options.hard_negatives else None
        batch = batch.to(self.processes.device)

        def encode(part: slice) -> torch.Tensor:
            images = normalise(batch.regions_B3SS[part], self._mean, self._std)
            with self._autocast():
                return self._encoder(images, batch.masks_BSS[part]).float()

        def loss_of(features_BD: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
            return self._scaler.scale(self._loss(features_BD, logit_scale, numbers_B, texts_BD, negatives))

        logit_scale = self.model.clip.logit_scale
        if len(micro_batches) == 1:
            loss = loss_of(encode(micro_batches[0]), logit_scale)
            loss.backward()
        else:
            loss = cached_backward(encode, micro_batches, loss_of, logit_scale, self.processes.no_sync(self._encoder))
        return loss.item() / self._scaler.get_scale()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        return torch.autocast(self.processes.kind, dtype) if dtype else contextlib.nullcontext()

    def _loss(
        self,
        features_BD: torch.Tensor,
        logit_scale: torch.Tensor,
        numbers_B: torch.Tensor,
        texts_BD: torch.Tensor,
        negatives: Negatives | None,
    ) -> torch.Tensor:
        """The loss of the whole batch, of which every process sees all rows."""
        gather = gather_with_grad if self.options.gather == "grad" else gather_without_grad
        regions_GD = gather(normalize(features_BD, dim=-1))
        texts_GD, numbers_G = gather_without_grad(texts_BD), gather_without_grad(numbers_B)
        if self.options.loss == "paper":
            numbers_G = torch.arange(len(numbers_G), device=numbers_G.device)
        if negatives is None:
            return multi_positive_info_nce(regions_GD, texts_GD, logit_scale.exp(), numbers_G)
        negatives_GHD, there_GH = (
            self.texts.vectors(gather_without_grad(negatives[0])),
            gather_without_grad(negatives[1]),
        )
        return multi_positive_info_nce(regions_GD, texts_GD, logit_scale.exp(), numbers_G, negatives_GHD, there_GH)

    def _negatives(self, batch: PairBatch) -> Negatives:
        """Each pair's hard negatives; H is that of the process that has most, and 1 at least."""
        numbers = [self.texts.numbers(nouns) for nouns in batch.hard_negatives]
        most = max(1, self.processes.maximum(max(map(len, numbers), default=0)))
        padded = [each + [0] * (most - len(each)) for each in numbers]
        there = [[at < len(each) for at in range(most)] for each in numbers]
        device = self.processes.device
        return torch.tensor(padded, device=device), torch.tensor(there, device=device)

    # Checkpoints.

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; of the model only what some stage trains."""
        return {
            "progress": dataclasses.asdict(self.at),
            "model": {name: value for name, value in self.model.state_dict().items() if self._changes(name)},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state of `state()`."""
        self.at = Progress(**state["progress"])
        self.begin_stage()
        found = self.model.load_state_dict(state["model"], strict=False)
        assert not found.unexpected_keys and not any(map(self._changes, found.missing_keys))
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())

    def _changes(self, name: str) -> bool:
        """Whether any stage trains this tensor, or keeps running statistics in it."""
        if name.startswith(("prompts", "alpha_conv.", "clip.logit_scale")):
            return True
        return name.startswith("clip.visual.") and self.options.mode != "prompt"
