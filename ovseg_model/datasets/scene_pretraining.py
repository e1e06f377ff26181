"""Pretrains the small CLIP of scenes, on whole scenes with their captions, from nothing.

    python -m ovseg_model.datasets.scene_pretraining --output FOLDER

The same command goes on after a crash or Ctrl-C. Step s draws the scenes s·batch … (s+1)·batch of the training split,
so nothing is ever seen twice, and a run that was stopped ends like one that was not. The folder holds open_clip's own
layout, training.csv (the log), training.json (options, versions, checksum) and, until the end, checkpoint.pt.

Array names end in their axes: B scenes, T captions, D dimensions of the shared space, L tokens.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import platform
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_model.clip import BPE_FILE, CONFIG_FILE, SAFE_FILE, encode_cut_texts, file_sha256, resolve_device
from ovseg_model.datasets.scene_nouns import STUFF, mentioned
from ovseg_model.datasets.scene_vocabulary import write_merges
from ovseg_model.datasets.scenes import SIZE_PX, VIEWS, WORLD_VERSION, Scene, draw_scene, numbers
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's, which every open_clip tool assumes where it is told nothing."""

CONTEXT_LENGTH = 32
"""Tokens of a text; captions have about 20 at most."""

CHECKPOINT_FILE, LOG_FILE, RECORD_FILE = "checkpoint.pt", "training.csv", "training.json"

FIRST_VIEWS = {"close": 0.5, "single": 0.5}
"""Scenes of the first part of the curriculum: one large thing each. Captions name it, so telling scenes apart by
their stuff alone does not get far; with the whole world at once, things are learnt several times more slowly."""

LOG_COLUMNS = (
    "step",
    "scenes",
    "loss",
    "loss_stuff_only",
    "loss_all_nouns",
    "logit_scale",
    "learning_rate",
    "elapsed_s",
)


@dataclass(frozen=True)
class PretrainOptions:
    """What decides the weights."""

    steps: int = 2600
    batch: int = 128
    captions: int = 5
    """Captions of each scene in a batch. One names half of what is there, five nine tenths, and texts cost little."""

    curriculum: float = 0.25
    """Share of the steps that see FIRST_VIEWS only."""

    muon_learning_rate: float = 0.02
    """Of the matrices inside the transformers, by Muon."""

    learning_rate: float = 1e-3
    """Of everything else, by AdamW."""

    weight_decay: float = 0.01
    warmup: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values that no training can work with; raises UserError."""
        for name, least, most in (("steps", 1, None), ("batch", 2, None), ("warmup", 1, None), ("captions", 1, 5)):
            value = getattr(self, name)
            if value < least or (most and value > most):
                wanted = f"{least} to {most}" if most else f"{least} or more"
                raise UserError(f"--{name}: wanted {wanted}, got {value}")


def model_config(vocabulary: int) -> dict[str, Any]:
    """Returns the small CLIP's configuration in open_clip's form: 8 x 8 patches of 8 pixels, 3.3 M parameters."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE_PX, "patch_size": 8, "width": 192, "layers": 6, "head_width": 64},
        "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": vocabulary, "width": 128, "heads": 4, "layers": 2},
    }


def write_config(folder: Path) -> dict[str, Any]:
    """Writes open_clip's configuration file and the tokenizer's merges; returns the model's part."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(write_merges(folder / BPE_FILE))
    preprocessing = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}, indent=1)
    (folder / CONFIG_FILE).write_text(text + "\n")
    return config


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    images_B3SS: torch.Tensor
    """uint8, 0..255."""

    tokens_TL: torch.Tensor
    """int64, the captions of the first scene, then those of the second, ..."""

    stuff_only: float
    all_nouns: float
    """The losses of `ideal_loss` for this batch."""


class Batches:
    """Step number → Batch; a map-style data set, so that a DataLoader's workers can draw ahead."""

    def __init__(self, options: PretrainOptions, folder: Path) -> None:
        """folder: holds the merges."""
        from open_clip import SimpleTokenizer

        self._options = options
        self._tokenizer = SimpleTokenizer(
            str(folder / BPE_FILE), context_length=model_config(0)["text_cfg"]["context_length"]
        )

    def __getitem__(self, step: int) -> Batch:
        """Draws the batch of a step."""
        import torch

        options = self._options
        views = FIRST_VIEWS if step < options.curriculum * options.steps else VIEWS
        scenes = [draw_scene(at, views=views) for at in numbers("train", options.batch, step * options.batch)]
        randoms = random.Random(f"{options.seed} {step}")
        captions = [text for scene in scenes for text in randoms.sample(scene.captions, options.captions)]
        tokens_TL = self._tokenizer(captions)
        longest = int((tokens_TL > 0).sum(dim=1).max())
        images = np.stack([scene.image_HW3.transpose(2, 0, 1) for scene in scenes])
        references = (ideal_loss(scenes, captions, STUFF), ideal_loss(scenes, captions, None))
        return Batch(torch.from_numpy(images), tokens_TL[:, :longest], *references)


def ideal_loss(scenes: Sequence[Scene], captions: Sequence[str], known: Sequence[str] | None) -> float:
    """Returns the text-to-scene loss, in nats, of one who tells scenes apart by certain nouns alone.

    captions: the same number of each scene, in order; known: the nouns, or None for all. Such a reader finds all
    scenes that show each known noun of a caption equally likely. A model whose loss is no lower than this for stuff
    has learnt no things, however good it looks.
    """
    shown = [{region.noun for region in scene.regions} for scene in scenes]
    named = [mentioned(caption) & set(known) if known is not None else mentioned(caption) for caption in captions]
    return float(np.mean([math.log(sum(nouns <= each for each in shown)) for nouns in named]))


def contrastive_losses(similarity_BT: torch.Tensor, captions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the two halves of the symmetric InfoNCE loss of scenes with several captions each, in nats.

    similarity_BT: scaled cosines of B scenes and T = B·captions captions, those of the first scene first. From caption
    to scene, where each caption has one; and from scene to captions, where a scene's target is spread over its own,
    and ln(captions) is what it cannot get below.
    """
    import torch
    from torch.nn.functional import cross_entropy, log_softmax

    own_T = torch.arange(len(similarity_BT), device=similarity_BT.device).repeat_interleave(captions)
    to_scenes = cross_entropy(similarity_BT.T, own_T)
    to_captions = -log_softmax(similarity_BT, dim=1)[own_T, torch.arange(len(own_T), device=own_T.device)].mean()
    return to_scenes, to_captions


class Pretraining:
    """A model, its optimisers and the step they are at."""

    def __init__(self, options: PretrainOptions, config: dict[str, Any], device: str) -> None:
        """Builds the model with seeded weights."""
        import open_clip
        import torch

        torch.manual_seed(options.seed)
        self.options, self.device, self.step = options, device, 0
        self.model = open_clip.CLIP(**config).to(device)
        with torch.no_grad():
            self.model.logit_scale.fill_(math.log(10.0))
        self.optimizers = self._make_optimizers()

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the transformers, AdamW for the rest.

        Muon (Jordan et al. 2024) reached in 60 steps the loss that AdamW alone had after 100.
        """
        import torch

        named = dict(self.model.named_parameters())
        inner = [weight for name, weight in named.items() if weight.ndim == 2 and "resblocks" in name]
        chosen = {id(weight) for weight in inner}
        rest = [weight for weight in named.values() if id(weight) not in chosen]
        options = self.options
        return [
            torch.optim.Muon(inner, lr=options.muon_learning_rate, weight_decay=options.weight_decay),
            torch.optim.AdamW(
                rest, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay, fused=True
            ),
        ]

    def learn(self, batch: Batch) -> float:
        """Takes one step; returns the text-to-scene half of its loss, in nats."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self._set_learning_rates()
        # On a CPU torch's fused attention is several times slower backwards than plain matrices of 64 x 64.
        kernels = [SDPBackend.MATH] if self.device == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        with torch.autocast(self.device.split(":")[0], torch.bfloat16), sdpa_kernel(kernels):
            images = self._normalised(batch.images_B3SS)
            images_BD = torch.nn.functional.normalize(self.model.visual(images).float(), dim=-1)
            texts = encode_cut_texts(self.model, batch.tokens_TL.to(self.device))
            texts_TD = torch.nn.functional.normalize(texts.float(), dim=-1)
        similarity_BT = self.model.logit_scale.exp() * images_BD @ texts_TD.T
        to_scenes, to_captions = contrastive_losses(similarity_BT, self.options.captions)
        ((to_scenes + to_captions) / 2).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        self.step += 1
        return to_scenes.item()

    def _normalised(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        import torch

        mean, std = (torch.tensor(values, device=self.device).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        return (images_B3SS.to(self.device).float() / 255 - mean) / std

    def _set_learning_rates(self) -> None:
        """Linear warm-up, then linear to zero."""
        done = self.step / self.options.steps
        factor = min((self.step + 1) / self.options.warmup, 1.0) * (1 - done)
        rates = (self.options.muon_learning_rate, self.options.learning_rate)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, whole or not at all."""
        import torch

        state = {"step": self.step, "options": dataclasses.asdict(self.options), "model": self.model.state_dict()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        unfinished = folder / f".{CHECKPOINT_FILE}"
        torch.save(state, unfinished)
        os.replace(unfinished, folder / CHECKPOINT_FILE)

    def resume(self, folder: Path) -> None:
        """Goes on from the folder's checkpoint, if there is one. Raises UserError when other options made it."""
        import torch

        path = folder / CHECKPOINT_FILE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        wanted = dataclasses.asdict(self.options)
        if state["options"] != wanted:
            changed = sorted(name for name in wanted if wanted[name] != state["options"].get(name))
            raise UserError(
                f"{path} was made with another {', '.join(changed)}; give the same options, or another --output"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]


def pretrain(
    folder: Path, options: PretrainOptions, device: str = "auto", workers: int = 0, save_every: int = 100
) -> None:
    """Trains until options.steps, from the folder's checkpoint if there is one, and writes the weights.

    workers: processes that draw scenes ahead; 0 draws between steps, which on two cores is as fast. save_every: steps
    between checkpoints. Raises UserError for a device that is not there and for a checkpoint of other options.
    """
    device = resolve_device(device)
    config = write_config(folder)
    training = Pretraining(options, config, device)
    training.resume(folder)
    log = _Log(folder / LOG_FILE, training.step)
    try:
        for batch in _batches(options, folder, training.step, workers):
            log.add(training, batch, training.learn(batch))
            if training.step % save_every == 0:
                training.save(folder)
    except KeyboardInterrupt:
        training.save(folder)
        raise
    write_weights(training, folder)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _batches(options: PretrainOptions, folder: Path, start: int, workers: int) -> Iterator[Batch]:
    """The batches from a step on, with a progress bar."""
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    steps = range(start, options.steps)
    loader = DataLoader(Batches(options, folder), batch_size=None, sampler=steps, num_workers=workers)
    return iter(tqdm(loader, "pretraining", options.steps, initial=start, unit="step"))


class _Log:
    """training.csv: a row every few steps, averages since the last."""

    EVERY = 25

    def __init__(self, path: Path, start: int) -> None:
        """Keeps the rows up to the step that training goes on from."""
        rows = list(csv.DictReader(path.open())) if path.exists() and start else []
        self._rows = [row for row in rows if int(row["step"]) <= start]
        self._path, self._began = path, time.monotonic()
        self._before_s = float(self._rows[-1]["elapsed_s"]) if self._rows else 0.0
        self._losses: list[tuple[float, float, float]] = []

    def add(self, training: Pretraining, batch: Batch, loss: float) -> None:
        """Notes a step that was taken."""
        self._losses.append((loss, batch.stuff_only, batch.all_nouns))
        if training.step % self.EVERY and training.step < training.options.steps:
            return
        means = [f"{value:.4f}" for value in np.mean(self._losses, axis=0)]
        scale = f"{training.model.logit_scale.exp().item():.2f}"
        rate = f"{training.optimizers[0].param_groups[0]['lr']:.6f}"
        elapsed = f"{self._before_s + time.monotonic() - self._began:.0f}"
        scenes = training.step * training.options.batch
        values = (training.step, scenes, *means, scale, rate, elapsed)
        self._rows.append(dict(zip(LOG_COLUMNS, values, strict=True)))
        self._losses.clear()
        self._write()

    def _write(self) -> None:
        unfinished = self._path.with_name(f".{self._path.name}")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(unfinished, self._path)


def write_weights(training: Pretraining, folder: Path) -> None:
    """Writes the weights as open_clip publishes them, in 16 bits, and the record of what made them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    weights = {name: value.half().contiguous().cpu() for name, value in training.model.state_dict().items()}
    unfinished = folder / f".{SAFE_FILE}"
    save_file(weights, unfinished)
    os.replace(unfinished, folder / SAFE_FILE)
    record = {
        "world_version": WORLD_VERSION,
        "options": dataclasses.asdict(training.options),
        "parameters": sum(value.numel() for value in training.model.parameters()),
        "sha256": {name: file_sha256(str(folder / name)) for name in (SAFE_FILE, CONFIG_FILE, BPE_FILE)},
        "made_with": {
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "device": training.device,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, config, log and checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes ahead; many with a GPU")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0 leaves that to torch")
    for field in dataclasses.fields(PretrainOptions):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    arguments = vars(parser.parse_args(argv))
    output, device, workers, threads = (arguments.pop(name) for name in ("output", "device", "workers", "threads"))
    if threads:
        import torch

        torch.set_num_threads(threads)
    try:
        pretrain(output, PretrainOptions(**arguments), device, workers)
    except UserError as error:
        raise SystemExit(f"scene_pretraining: {error}") from None


if __name__ == "__main__":
    main()
