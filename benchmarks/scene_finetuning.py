"""The paper's question on scenes: CLIP as it is, MPT, FT, and FT then MPT, on pairs that the miner made; several seeds.

python -m benchmarks.scene_finetuning --folder WORK --output docs/finetuning_scenes.md

Draws training scenes that pretraining never saw, mines them as the demo does, finetunes, and measures on held-out
scenes of both styles. What is there already in the folder is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from ovseg_model.adaptation_accuracy import ACCURACIES, AccuracyMeter
from ovseg_model.adapted_weights import adapt_clip, load_adapted
from ovseg_model.class_embeddings import ClassEmbeddings, prompt_templates
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.finetune import ADAPTED_FILE
from ovseg_model.labelled_regions import open_labelled_set
from pipelines.command_line import main as ovseg

SCENES, START = 1000, 1_000_000
"""Scenes that are mined, and where in the training split they begin: pretraining saw the first 332,800."""

SEEDS = (0, 1, 2)
IMAGES = 500
TRAINING = (
    *("--where", "not abstract and not generic", "--epochs", "5", "--batch", "128", "--warmup", "50"),
    *("--full-learning-rate", "3e-4", "--full-weight-decay", "0.2", "--prompt-learning-rate", "1e-2"),
)
"""For a model of 3 M parameters and some thousand pairs; chosen on validation scenes, never on those reported."""


def run_ovseg(*arguments: str) -> None:
    """One command, as a user gives it."""
    if ovseg([str(argument) for argument in arguments]):
        raise SystemExit(f"failed: ovseg {' '.join(map(str, arguments))}")


def mine(folder: Path) -> Path:
    """The run whose PAIRS are trained on."""
    scenes, run = folder / "scenes", folder / "run"
    if not (scenes / "captions.json").exists():
        run_ovseg("draw-scenes", "--output", scenes, "--split", "train", "--start", START, "--scenes", SCENES)
    captions = ("--captions", scenes / "captions.json", "--images", scenes / "images")
    masks = ("--masks", "felzenszwalb", "--mask-option", "min_area_fraction=0.01")
    run_ovseg("mine", *captions, "--nouns", "lexicon", *masks, "--clip", "scenes", "--output", run)
    run_ovseg("judge", "--output", run, "--truth", scenes)
    return run


def train(run: Path, folder: Path, mode: str, seed: int) -> Path:
    """The folder of a finetuned model."""
    output = folder / f"{mode}-{seed}"
    if not (output / "result.json").exists():
        run_ovseg("finetune", "--pairs", run, "--mode", mode, "--seed", seed, "--output", output, *TRAINING)
    return output


class Meter:
    """Measures models on one labelled set, each once."""

    def __init__(self, eval_set: str) -> None:
        """eval_set: as `open_labelled_set` takes it."""
        clip = load_clip(resolve_clip("scenes"))
        labelled = open_labelled_set(eval_set, IMAGES)
        classes = ClassEmbeddings(clip, prompt_templates("vild")).embed(labelled.classes)
        self._meter = AccuracyMeter(labelled, classes, clip.mean, clip.std)
        self._name = eval_set.replace(":", "-")

    def measure(self, path: Path | None) -> dict[str, float]:
        """Figures of a file of weights, or of CLIP as it is; kept beside the file."""
        if path is None:
            return self._meter.measure(adapt_clip(resolve_clip("scenes"))).values()
        kept = path.with_suffix(f".{self._name}.json")
        if not kept.exists():
            kept.write_text(json.dumps(self._meter.measure(load_adapted(str(path))).values()))
        return json.loads(kept.read_text())


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """A row a way of training: mean over seeds, and the spread from the lowest to the highest."""
    lines = [f"| | {' | '.join(ACCURACIES)} |", "|---|" + "---:|" * len(ACCURACIES)]
    for name, results in rows.items():
        cells = []
        for figure in ACCURACIES:
            values = [result[figure] for result in results]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(run: Path, folder: Path, seeds: Sequence[int], meter: Meter) -> dict[str, list[dict[str, float]]]:
    """Results by way of training: one for CLIP as it is, one a seed for the others."""
    prompt = [train(run, folder, "prompt", seed) for seed in seeds]
    both = [train(run, folder, "full-then-prompt", seed) for seed in seeds]
    return {
        "CLIP as it is": [meter.measure(None)],
        "MPT": [meter.measure(output / ADAPTED_FILE) for output in prompt],
        "FT": [meter.measure(output / "after-full.safetensors") for output in both],
        "FT, then MPT": [meter.measure(output / ADAPTED_FILE) for output in both],
    }


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where scenes, pairs and models are kept")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    arguments = parser.parse_args()
    run = mine(arguments.folder)
    seeds = SEEDS[: arguments.seeds]
    text = [f"{IMAGES} test scenes, {len(seeds)} seeds, mean and range.", ""]
    for title, eval_set in (("painted, the style of training", "scenes"), ("ink, never seen", "scenes:ink")):
        text += [f"**{title}**", "", table(compare(run, arguments.folder, seeds, Meter(eval_set))), ""]
    arguments.output.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
