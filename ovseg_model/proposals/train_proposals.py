"""Training of OVSeg's proposal network on label maps: resumable at any step, alone or under torchrun.

Array names end in their axes: L decoder layers, B crops of a process, N queries, K classes, D dimensions, S side of a
crop, h and w the mask grid.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg_model.adapted_weights import whole_file
from ovseg_model.checkpoint import CHECKPOINT_FILE, changed_names, read_checkpoint, write_checkpoint
from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import ClipWeights, load_clip
from ovseg_model.processes import Processes, open_processes
from ovseg_model.proposals.network_weights import IMAGENET_MEAN, IMAGENET_STD, NetworkWeights
from ovseg_model.proposals.proposal_network import (
    HEAD_WIDTHS,
    NetworkFacts,
    ProposalModel,
    initialise,
    preset_config,
    save_network,
)
from ovseg_model.proposals.query_network import autocast, settled_precision
from ovseg_model.proposals.set_loss import Totals, local_totals, set_loss
from ovseg_model.proposals.training_crops import CropBatch, CropDataset, CropOptions, crop_batches
from ovseg_model.proposals.training_maps import TrainingMaps
from ovseg_model.proposals.training_options import ProposalTrainingOptions, learning_rate_share
from ovseg_model.training_log import TrainingLog
from schemas.errors import UserError

NETWORK_FOLDER, RESULT_FILE = "network", "result.json"

LOG_COLUMNS = ("step", "loss", "learning_rate", "gradient_norm", "images_per_s")

NO_WEIGHT = ("save_every", "log_every", "workers")
"""Options that decide when and how fast, but no weight: a run may go on with others."""


@dataclass(frozen=True)
class ProposalTraining:
    """All that a run of training is made of."""

    maps: TrainingMaps
    clip: ClipWeights
    init: NetworkWeights | None
    options: ProposalTrainingOptions
    output: Path

    def made_by(self) -> dict[str, Any]:
        """What decides the weights: a checkpoint goes on only with the same."""
        decides = {name: value for name, value in dataclasses.asdict(self.options).items() if name not in NO_WEIGHT}
        decides["init"] = self.init.fingerprint() if self.init else None
        return {**decides, "clip": self.clip.fingerprint(), "maps": self.maps.fingerprint()}


def train_proposals(run: ProposalTraining, device: str = "auto", say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains until all steps are done, from the folder's checkpoint if there is one; returns what result.json holds.

    The output folder gets network/ (`resolve_network` takes it), training.csv, tensorboard/ and result.json. Ctrl-C
    writes a checkpoint first.

    Raises UserError for a device or batch that cannot be, data that cannot be read, a checkpoint of other options, and
    a loss that is not a number: the last checkpoint stands.
    """
    done = _finished(run)
    if done is not None:
        say(f"{run.output}: is trained already; remove {RESULT_FILE} to train again")
        return done
    with open_processes(device) as processes:
        if run.options.batch % processes.count:
            raise UserError(f"--batch: wanted a multiple of the {processes.count} processes, got {run.options.batch}")
        trainer = _Trainer(run, open_learner(run, processes), processes, say)
        try:
            return trainer.train()
        except KeyboardInterrupt:
            trainer.save_if_whole()
            raise
        except FloatingPointError as error:
            raise UserError(
                f"{run.output}: {error}; the last checkpoint stands, and the same command goes on from it; lower the "
                "learning rate, lengthen --warmup, or give --precision fp32"
            ) from error


def _finished(run: ProposalTraining) -> dict[str, Any] | None:
    """What result.json holds, where the same run is done; refuses a folder that another run has finished in."""
    path = run.output / RESULT_FILE
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    if changed := changed_names(result["made_by"], json.loads(json.dumps(run.made_by()))):
        raise UserError(f"{path}: is the result of another {', '.join(changed)}; give another --output")
    return result


class Learner:
    """A network in training: one step on a batch, and the state that a checkpoint holds."""

    def __init__(
        self,
        options: ProposalTrainingOptions,
        model: ProposalModel,
        class_vectors_KD: np.ndarray,
        processes: Processes,
    ) -> None:
        """class_vectors_KD: float32 unit vectors of the classes, in the order of labels."""
        self.options, self.processes = options, processes
        self.model = model.to(processes.device).train()
        self.class_vectors_KD = torch.tensor(class_vectors_KD, device=processes.device)
        self.step, self.dropped = 0, 0
        self.gradient_norm = 0.0
        self.whole = True
        """False while weights change: what is then saved would be no state that training passes through."""
        self.optimizer = torch.optim.AdamW(weight_groups(self.model, options), fused=True)
        self._network = processes.wrap(self.model, False)
        precision = settled_precision(options.precision, processes.device)
        self._dtype = torch.bfloat16 if precision == "bf16" else None

    def learn(self, batch: CropBatch) -> float:
        """Takes one step on this process's share of a batch; returns the whole batch's loss.

        Raises FloatingPointError, before any weight changes, for a loss or gradient that is not a finite number.
        """
        share = learning_rate_share(self.step, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        loss = self._backward(batch)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm).item()
        for what, value in (("loss", loss), ("gradient", self.gradient_norm)):
            if not math.isfinite(value):
                raise FloatingPointError(f"the {what} of step {self.step} is {value}")
        self.whole = False
        self.optimizer.step()
        self.step += 1
        self.whole = True
        self.optimizer.zero_grad()
        self.dropped += int(self.processes.total(batch.dropped))
        return loss

    def _backward(self, batch: CropBatch) -> float:
        """Adds the gradients of the whole batch's loss; returns the loss."""
        device = self.processes.device
        # Dropout depends on the step, not on how training came to it.
        torch.manual_seed(_seed_of(self.options.seed, self.step, self.processes.rank))
        with autocast(device, self._dtype):
            embeddings_LBND, masks_LBNhw = self._network(
                batch.inputs(IMAGENET_MEAN, IMAGENET_STD, device), every_layer=True
            )
        logits_LBNK = self.model.class_logits(embeddings_LBND, self.class_vectors_KD)
        loss = set_loss(logits_LBNK, masks_LBNhw.float(), batch.targets(device), self._totals(batch))
        # DDP averages over processes; the loss is divided by totals of all of them already.
        (loss * self.processes.count).backward()
        return self.processes.total(loss.item())

    def _totals(self, batch: CropBatch) -> Totals:
        counts = (batch.classes_BT >= 0).sum(dim=1).tolist()
        return Totals(*map(self.processes.total, local_totals(counts, self.options.queries)))

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, and what is counted."""
        return {
            "step": self.step,
            "dropped": self.dropped,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state of `state()`."""
        self.step, self.dropped = state["step"], state["dropped"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.BatchNorm2d)
TABLES = ("relative_position_bias_table", "position_embeddings", "no_object_D")
"""Last parts of names of weights that are embeddings without being modules of their own."""


def weight_groups(model: ProposalModel, options: ProposalTrainingOptions) -> list[dict[str, Any]]:
    """Returns AdamW's parameter groups, each with its peak learning rate as `peak`.

    Norms and embeddings have no weight decay; the backbone has a learning rate of its own.
    """
    of_backbone = {id(parameter) for parameter in model.model.pixel_level_module.encoder.parameters()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = isinstance(module, (*NORMS, torch.nn.Embedding)) or name in TABLES
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in of_backbone, plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": options.learning_rate,
            "peak": options.learning_rate * (options.backbone_rate if backbone else 1.0),
            "weight_decay": 0.0 if plain else options.weight_decay,
        }
        for (backbone, plain), parameters in groups.items()
    ]


def open_learner(run: ProposalTraining, processes: Processes) -> Learner:
    """The network as it begins, with the vectors of all classes."""
    options = run.options
    clip = load_clip(run.clip, processes.device)
    vectors_KD = ClassEmbeddings(clip, prompt_templates(options.templates)).embed(run.maps.classes)
    config = preset_config(options.preset, options.queries)
    model = ProposalModel(config, clip.embed_dim, HEAD_WIDTHS[options.preset], options.seed)
    if run.init:
        initialise(model, run.init)
    return Learner(options, model, vectors_KD, processes)


class _Trainer:
    """Goes through the steps; speaks, logs and saves for all processes where it is the first."""

    def __init__(
        self, run: ProposalTraining, learner: Learner, processes: Processes, say: Callable[[str], None]
    ) -> None:
        self.run, self.learner, self.processes = run, learner, processes
        self.say = say if processes.first else lambda text: None
        saved = read_checkpoint(run.output, run.made_by())
        if saved is not None:
            learner.restore(saved)
            self.say(f"going on at step {learner.step:,}")
        self.log = TrainingLog(run.output, learner.step, LOG_COLUMNS) if processes.first else None
        self.losses: list[float] = []
        self.began = time.monotonic()

    def train(self) -> dict[str, Any]:
        options, processes, learner = self.run.options, self.processes, self.learner
        trained = sum(each.numel() for each in learner.model.parameters() if each.requires_grad)
        self.say(f"{options.steps:,} steps of {options.batch} crops, training {trained:,} parameters")
        self.run.output.mkdir(parents=True, exist_ok=True)
        dataset = CropDataset(self.run.maps, crop_options(options), options.batch)
        steps = range(learner.step, options.steps)
        with self.bar() as bar:
            for batch in crop_batches(dataset, steps, processes.rank, processes.count, options.workers):
                self.after_step(learner.learn(batch), bar)
        processes.wait()
        return self.finish() if processes.first else {}

    def bar(self) -> Any:
        from tqdm import tqdm

        quiet = None if self.processes.first else True
        steps = self.run.options.steps
        return tqdm(total=steps, initial=self.learner.step, desc="proposals", unit="step", disable=quiet)

    def after_step(self, loss: float, bar: Any) -> None:
        """Logs and saves when it is time."""
        options, step = self.run.options, self.learner.step
        self.losses.append(loss)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.update()
        if self.log and (step == options.steps or step % options.log_every == 0):
            self.log.add(step, self.facts())
        if step % options.save_every == 0 or step == options.steps:
            self.save_if_whole()

    def facts(self) -> dict[str, float]:
        """Of the steps since the last row of the log."""
        seconds, losses = max(1e-9, time.monotonic() - self.began), self.losses
        self.losses, self.began = [], time.monotonic()
        return {
            "loss": sum(losses) / len(losses),
            "learning_rate": self.learner.optimizer.param_groups[-1]["lr"],
            "gradient_norm": self.learner.gradient_norm,
            "images_per_s": len(losses) * self.run.options.batch / seconds,
        }

    def save_if_whole(self) -> None:
        """Writes a checkpoint, unless Ctrl-C came in the middle of a change of weights: then the last one stands."""
        if self.processes.first and self.learner.whole:
            write_checkpoint(self.run.output, self.run.made_by(), self.learner.state())

    def finish(self) -> dict[str, Any]:
        """Writes the network and result.json; the checkpoint goes last, so that a crash here loses nothing."""
        output, learner = self.run.output, self.learner
        made_by = json.loads(json.dumps(self.run.made_by()))
        save_network(output / NETWORK_FOLDER, learner.model, network_facts(self.run, made_by), learner.class_vectors_KD)
        if learner.dropped:
            self.say(f"{learner.dropped:,} times an image was passed over: none of its pixels has a label")
        result = {"made_by": made_by, "loss": self.log.measured(("loss",)), "dropped_all_ignored": learner.dropped}
        with whole_file(str(output / RESULT_FILE)) as part:
            Path(part).write_text(json.dumps(result, indent=1) + "\n")
        self.log.close()
        (output / CHECKPOINT_FILE).unlink(missing_ok=True)
        return result


def crop_options(options: ProposalTrainingOptions) -> CropOptions:
    """How crops are made for these options."""
    return CropOptions(options.crop_px, options.max_side_px, colour=options.colour, seed=options.seed)


def network_facts(run: ProposalTraining, made_by: dict[str, Any]) -> NetworkFacts:
    """What the trained network says of itself."""
    options = run.options
    return NetworkFacts(
        clip=run.clip.name,
        clip_sha256=run.clip.sha256,
        templates=tuple(prompt_templates(options.templates)),
        classes=tuple(run.maps.classes),
        short_side_px=options.crop_px,
        max_side_px=options.max_side_px,
        meaningless=run.clip.meaningless,
        made_by=made_by,
    )
