"""What choosing pairs does on scenes: precision by the truth, and accuracy after finetuning on what is left.

python -m benchmarks.scene_selection --folder WORK --output docs/selection_on_scenes.md

The pairs of benchmarks.scene_finetuning (1,000 training scenes, mined as the demo does), chosen by `ovseg filter` in
several ways, each finetuned with several seeds (FT, two epochs each), and measured on held-out scenes. What is there
already in the folder is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.scene_finetuning import SEEDS, Meter, mine, run_ovseg, table
from ovseg_model.finetune import ADAPTED_FILE
from pipelines.judge_pairs import Judged, judge_run
from pipelines.open_run import open_run_with_pairs

NAMED = "not abstract and not generic"
MARGIN = f"{NAMED} and margin > 0.02"

CHOICES: dict[str, tuple[str, ...]] = {
    "no abstract, no generic noun": ("--where", NAMED),
    "margin > 0.02": ("--where", MARGIN),
    "60 pairs a noun": ("--where", NAMED, "--cap", "60"),
    "mutual best": ("--where", NAMED, "--assign", "mutual"),
    "all three": ("--where", MARGIN, "--cap", "60", "--assign", "mutual"),
}
"""Arguments of `ovseg filter`, by what they do; each beside those of the first."""


TRAINING = (
    *("--mode", "full", "--epochs", "2", "--batch", "64", "--warmup", "20", "--workers", "0"),
    *("--full-learning-rate", "3e-4", "--full-weight-decay", "0.2"),
)
"""Rates of benchmarks.scene_finetuning, in less than half of its epochs: enough to tell one choice from another."""


class Precision(NamedTuple):
    """Pairs of nouns that mean something drawn: how many, how many right, and of which nouns."""

    pairs: int
    right: int
    nouns: int

    def row(self, name: str, before: Precision | None) -> str:
        """A line of the table; what of the right pairs is kept, by the first line's."""
        kept = f"{self.right / before.right:.0%}" if before else ""
        return f"| {name} | {self.pairs:,} | {self.right:,} | {self.right / self.pairs:.3f} | {kept} | {self.nouns} |"


def precision_of(judged: Sequence[Judged]) -> Precision:
    """Counts of judged pairs; nouns that mean nothing drawn are left out."""
    named = [each for each in judged if each.meant]
    return Precision(len(named), sum(each.right for each in named), len({each.row["noun"] for each in named}))


def choose(run: Path, folder: Path, name: str) -> Path:
    """The run that `ovseg filter` makes by one of CHOICES."""
    output = folder / name.replace(" ", "-").replace(">", "over").replace(",", "")
    run_ovseg("filter", run, *CHOICES[name], "--output", output / "run")
    return output


def train(chosen: Path, seed: int) -> Path:
    """The weights of a model finetuned on what was chosen."""
    output = chosen / f"full-{seed}"
    if not (output / "result.json").exists():
        run_ovseg("finetune", "--pairs", chosen / "run", "--seed", seed, "--output", output, *TRAINING)
    return output / ADAPTED_FILE


def precision_table(precisions: dict[str, Precision]) -> str:
    """A row a choice."""
    head = "| chosen | pairs | right | precision | right ones kept | nouns |"
    first = next(iter(precisions.values()))
    rows = [each.row(name, first) for name, each in precisions.items()]
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|", *rows])


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where scenes, pairs and models are kept")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    arguments = parser.parse_args()
    folder, seeds = arguments.folder, SEEDS[: arguments.seeds]
    run, meter = mine(folder), Meter("scenes")
    chosen = {name: choose(run, folder, name) for name in CHOICES}
    runs = {name: open_run_with_pairs(str(each / "run"), "--folder") for name, each in chosen.items()}
    judged = {name: list(judge_run(each, folder / "scenes")) for name, each in runs.items()}
    accuracies = {"CLIP as it is": [meter.measure(None)]}
    for name, each in chosen.items():
        accuracies[name] = [meter.measure(train(each, seed)) for seed in seeds]
    precisions = {name: precision_of(pairs) for name, pairs in judged.items()}
    text = f"{precision_table(precisions)}\n\n{len(seeds)} seeds, mean and range:\n\n{table(accuracies)}\n"
    arguments.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
