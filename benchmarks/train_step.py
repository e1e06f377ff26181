"""Seconds and memory of a training step, each mode against the paper's own composition, interleaved in one process.

The paper's composition (OVSeg's trainer, method of Liang et al., CVPR 2023): both towers run in every step, the text of
every row is encoded again, 77 tokens long, and the loss takes rows as the only positives. Equality first: the same
batch must give the same loss to 1e-4 in mode full with the paper's loss; the benchmark fails otherwise.

TFLOP/s are the image tower's multiplications and additions, forwards once, backwards twice (once where its weights are
frozen); what checkpointing computes again does not count. Beside them stands their share of what one large product of
matrices reaches on the same device in the same number format, measured first.

python -m benchmarks.train_step --clip scenes --batch 64        the shipped model
python -m benchmarks.train_step --clip ViT-B-16/random --batch 8
python -m benchmarks.train_step --clip ViT-L-14/random --batch 256 --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from ovseg_model.adapted_weights import adapt_clip
from ovseg_model.clip import Clip, load_clip, resolve_clip, resolve_device
from ovseg_model.datasets.scene_nouns import NAMES
from ovseg_model.finetune_options import FinetuneOptions
from ovseg_model.noun_vectors import noun_vectors
from ovseg_model.optimizers import adamw, weight_groups
from ovseg_model.pair_batches import BatchCounts, PairBatch
from ovseg_model.processes import Processes
from ovseg_model.training_state import TrainingState
from ovseg_model.training_texts import Texts

REPEATS = 5
TEMPLATE = "a photo of a {}."


@dataclass
class Side:
    """One way to train: a step, and what it holds on to."""

    name: str
    step: Callable[[], float]
    model: torch.nn.Module
    optimizer: Callable[[], torch.optim.Optimizer]
    seconds: list[float]
    tflop: float | None = None
    """Of the image tower in a step."""
    precision: str = "fp32"

    def held_bytes(self) -> int:
        """Activations kept for the backward pass, gradients, and the optimiser's state."""
        kept: dict[int, int] = {}
        weights = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.step()
        gradients = sum(each.numel() * 4 for each in self.model.parameters() if each.requires_grad)
        state = sum(
            value.numel() * value.element_size()
            for values in self.optimizer().state.values()
            for value in values.values()
            if torch.is_tensor(value)
        )
        return sum(kept.values()) + gradients + state


def make_batch(rows: int, side_px: int) -> PairBatch:
    """Random regions whose lower halves are blank, under nouns of scenes."""
    generator = torch.Generator().manual_seed(0)
    regions = torch.randint(0, 256, (rows, 3, side_px, side_px), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(rows, side_px, side_px, dtype=torch.bool)
    masks[:, : side_px // 2] = True
    nouns = [NAMES[row % len(NAMES)] for row in range(rows)]
    none = [None] * rows
    return PairBatch(
        regions,
        masks,
        nouns,
        none,
        [[] for _ in nouns],
        nouns,
        torch.zeros(rows, dtype=torch.bool),
        0,
        0,
        BatchCounts(),
    )


def papers_side(name: str, device: str, batch: PairBatch) -> tuple[Side, Callable[[], torch.Tensor]]:
    """The paper's composition, and its loss before any step."""
    clip = load_clip(resolve_clip(name), device)
    model = clip.model.train()
    model.visual.requires_grad_(True)
    model.logit_scale.requires_grad_(True)
    optimizer = adamw(weight_groups(model.named_parameters(), 5e-6, 0.2), device)
    tokens = clip._tokenizer([TEMPLATE.format(noun) for noun in batch.nouns]).to(device)
    on_device = batch.to(device)

    def loss_of() -> torch.Tensor:
        images = on_device.normalised(clip.mean, clip.std)
        regions = normalize(model.encode_image(images), dim=-1)
        texts = normalize(model.encode_text(tokens), dim=-1)
        logits = model.logit_scale.exp() * regions @ texts.T
        own = torch.arange(len(tokens), device=device)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2

    def step() -> float:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Side("paper's composition", step, model, lambda: optimizer, []), loss_of


def our_side(name: str, clip: Clip, device: str, batch: PairBatch, label: str, **options: object) -> Side:
    """One of our modes, as `ovseg finetune` runs it."""
    chosen = FinetuneOptions(batch=len(batch), templates=TEMPLATE, **options)
    model = adapt_clip(resolve_clip(name), alpha=chosen.mode == "alpha")
    nouns = sorted(set(batch.nouns))
    texts = Texts(clip, nouns, noun_vectors(clip, nouns, TEMPLATE, None), device)
    state = TrainingState(chosen, model, (clip.mean, clip.std), texts, Processes(0, 1, device))
    state.begin_stage()
    state.model.train()
    passes = 2 if chosen.mode == "prompt" else 3
    tflop = passes * len(batch) * tower_tflop(clip.model.visual)
    step, optimizer = (lambda: state.learn(batch, 1e-6)), (lambda: state.optimizer)
    return Side(label, step, state.model, optimizer, [], tflop, chosen.precision)


def tower_tflop(visual: torch.nn.Module) -> float:
    """Multiplications and additions of one image through open_clip's vision transformer, in 10¹²."""
    width, patches = visual.conv1.out_channels, visual.grid_size[0] * visual.grid_size[1]
    tokens, blocks = patches + 1, visual.transformer.resblocks
    mlp = blocks[0].mlp.c_fc.out_features
    block = 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * mlp
    return (len(blocks) * block + 2 * patches * visual.conv1.weight.numel()) / 1e12


def matmul_tflops(device: str, precision: str) -> float:
    """What a product of two large matrices reaches, 10¹² multiplications and additions a second; median of REPEATS."""
    side = 8192 if device.startswith("cuda") else 2048
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / 1e12 / statistics.median(seconds[1:])


def check_equal(name: str, clip: Clip, device: str, batch: PairBatch) -> None:
    """Fails when mode full with the paper's loss gives another loss than the paper's composition."""
    _, loss_of = papers_side(name, device, batch)
    ours = our_side(name, clip, device, batch, "", mode="full", loss="paper", precision="fp32").step()
    theirs = loss_of().item()
    if not np.isclose(ours, theirs, rtol=0, atol=1e-4):
        raise SystemExit(f"train_step: losses differ: paper's composition {theirs:.6f}, ours {ours:.6f}")
    print(f"equal before timing: loss {theirs:.6f} and {ours:.6f}\n")


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", default="scenes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    name, device = arguments.clip, resolve_device(arguments.device)
    clip = load_clip(resolve_clip(name), device)
    batch = make_batch(arguments.batch, clip.image_size_px)
    check_equal(name, clip, device, batch)
    sides = [
        papers_side(name, device, batch)[0],
        our_side(name, clip, device, batch, "full", mode="full", precision="fp32"),
        our_side(name, clip, device, batch, "full, bf16", mode="full", precision="bf16"),
        our_side(
            name, clip, device, batch, "full, checkpointed", mode="full", precision="fp32", grad_checkpointing=True
        ),
        our_side(name, clip, device, batch, "prompt", mode="prompt", precision="fp32"),
        our_side(name, clip, device, batch, "prompt, bf16", mode="prompt", precision="bf16"),
        our_side(name, clip, device, batch, "joint", mode="joint", precision="fp32"),
        our_side(name, clip, device, batch, "alpha", mode="alpha", precision="fp32"),
    ]
    for side in sides:  # warm up
        side.step()
    for _ in range(REPEATS):
        for side in sides:
            began = time.perf_counter()
            side.step()
            side.seconds.append(time.perf_counter() - began)
    rates = {precision: matmul_tflops(device, precision) for precision in ("fp32", "bf16")}
    print(table(sides, arguments.batch, rates))


def table(sides: list[Side], batch: int, matmul: dict[str, float]) -> str:
    """A row a side; the noise is the first side's spread over its own median. matmul: TFLOP/s by number format."""
    base = statistics.median(sides[0].seconds)
    lines = ["| | s/step | pairs/s | ratio | MB held | TFLOP/s | of a matmul |", "|---|---:|---:|---:|---:|---:|---:|"]
    for side in sides:
        seconds = statistics.median(side.seconds)
        held = side.held_bytes() / 1e6
        speed = f"{batch / seconds:.1f} | {base / seconds:.2f} | {held:.0f}"
        lines.append(f"| {side.name} | {seconds:.3f} | {speed} | {rate_cells(side, seconds, matmul)} |")
    spread = (max(sides[0].seconds) - min(sides[0].seconds)) / base
    rates = ", ".join(f"{rate:.2f} in {precision}" for precision, rate in matmul.items())
    noise = f"noise: the paper's composition varied by {spread:.0%} over {REPEATS} repeats"
    return "\n".join([*lines, "", f"{noise}; a matmul reaches {rates} TFLOP/s"])


def rate_cells(side: Side, seconds: float, matmul: dict[str, float]) -> str:
    """TFLOP/s of a side's image tower, and their share of a matmul's."""
    if side.tflop is None:
        return "|"
    return f"{side.tflop / seconds:.3f} | {side.tflop / seconds / matmul[side.precision]:.0%}"


if __name__ == "__main__":
    main()
