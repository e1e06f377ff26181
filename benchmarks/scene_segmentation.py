"""mIoU on drawn scenes: CLIP as it is against finetuned, by the truth's masks, Felzenszwalb and a tiny MaskFormer.

    python -m benchmarks.scene_segmentation --folder WORK --output docs/scene_segmentation.md

takes the models that benchmarks.scene_finetuning left in WORK (and makes them where they are missing), trains OVSeg's
proposal network at tiny size, and evaluates each on test scenes of both styles, with `ovseg evaluate` as a user calls
it. λ and mask threshold of the network are tuned on validation scenes. What is in the folder is not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.scene_finetuning import SEEDS, mine, run_ovseg, train
from ovseg_model.finetune import ADAPTED_FILE

IMAGES = 40
TUNE_IMAGES = 24
STYLES = {"scenes": "painted, the style of training", "scenes:ink": "ink, never seen"}
TUNE_SPLITS = {"scenes": "val", "scenes:ink": "ink-val"}

FELZENSZWALB = ("--masks", "felzenszwalb", "--mask-option", "min_area_fraction=0.01")
COLUMNS = ("masks of the truth", "Felzenszwalb", "MaskFormer, tuned λ")


def train_network(folder: Path) -> Path:
    """OVSeg's proposal network on drawn scenes of the training split, its classes those that fixed labels have."""
    output = folder / "proposals"
    if not (output / "result.json").exists():
        run_ovseg("train-proposals", "--benchmark", "scenes", "--preset", "tiny", "--output", output, *TRAINING)
    return output / "network"


TRAINING = ("--steps", "3000", "--batch", "16", "--queries", "12")


def models_of(folder: Path) -> dict[str, list[str]]:
    """What --clip takes, by row; a model a seed."""
    run = mine(folder)
    prompt = [train(run, folder, "prompt", seed) for seed in SEEDS]
    both = [train(run, folder, "full-then-prompt", seed) for seed in SEEDS]
    return {
        "CLIP as it is": ["scenes"],
        "MPT": [str(each / ADAPTED_FILE) for each in prompt],
        "FT": [str(each / "after-full.safetensors") for each in both],
        "FT, then MPT": [str(each / ADAPTED_FILE) for each in both],
    }


def ways_of(network: Path, benchmark: str) -> dict[str, tuple[str, ...]]:
    """Options of `ovseg evaluate` by column."""
    maskformer = ("--masks", "maskformer", "--mask-option", f"weights={network}")
    tuned = ("--tune-on", TUNE_SPLITS[benchmark], "--tune-images", str(TUNE_IMAGES))
    return dict(
        zip(
            COLUMNS,
            (
                ("--oracle", "masks"),
                FELZENSZWALB,
                (*maskformer, *tuned),
            ),
            strict=True,
        )
    )


def evaluate(folder: Path, benchmark: str, clip: str, options: tuple[str, ...]) -> dict:
    """The result of one evaluation, made once."""
    words = [benchmark, clip.removeprefix(str(folder)), *options]
    name = "-".join(part.strip("/").replace("/", "_").replace(":", "_") for part in map(str, words) if part)
    output = folder / "evaluations" / name.replace(str(folder).strip("/").replace("/", "_"), "")[:180]
    if not (output / "result.json").exists():
        run_ovseg(
            *("evaluate", "--benchmark", benchmark, "--limit", IMAGES, "--clip", clip, *options, "--output", output)
        )
    return json.loads((output / "result.json").read_text())


def cell(results: list[dict]) -> str:
    """MIoU G in percent: mean over seeds, lowest to highest."""
    values = [100 * each["numbers"]["miou_present"] for each in results]
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.1f}{spread}"


def table(folder: Path, benchmark: str, models: dict[str, list[str]], ways: dict[str, tuple[str, ...]]) -> list[str]:
    """A row a model, a column a source of masks; last the masks with true labels, the most that they allow."""
    lines = ["| mIoU G, % | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    for name, clips in models.items():
        # Seeds differ by the CLIP alone, which the truth's masks show best and cheapest; elsewhere the first stands.
        chosen = {way: clips if "--oracle" in options else clips[:1] for way, options in ways.items()}
        cells = [cell([evaluate(folder, benchmark, clip, ways[way]) for clip in some]) for way, some in chosen.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    oracle = [most_of(folder, benchmark, options) for options in ways.values()]
    return [*lines, f"| these masks, true labels | {' | '.join(oracle)} |", ""]


def most_of(folder: Path, benchmark: str, options: tuple[str, ...]) -> str:
    """What these masks would reach with true labels; the truth's own reach all."""
    if "--oracle" in options:
        return "100.0"
    return cell([evaluate(folder, benchmark, "scenes", (*untuned(options), *LABELS))])


LABELS = ("--oracle", "labels")


def untuned(options: tuple[str, ...]) -> tuple[str, ...]:
    """The options without those of tuning: true labels leave nothing to tune."""
    if "--tune-on" not in options:
        return options
    return options[: options.index("--tune-on")]


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where models, pairs and predictions are kept")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    models, network = models_of(arguments.folder), train_network(arguments.folder)
    text = [
        f"{IMAGES} test scenes of 128 px. By masks of the truth mean and range over {len(SEEDS)} seeds of finetuning, "
        f"by proposals the first seed. λ and threshold of MaskFormer are tuned on {TUNE_IMAGES} validation scenes.",
        "",
    ]
    for benchmark, title in STYLES.items():
        text += [f"**{title}**", "", *table(arguments.folder, benchmark, models, ways_of(network, benchmark))]
    arguments.output.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
