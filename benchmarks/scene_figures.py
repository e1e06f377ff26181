"""The pictures of docs/scenes.md: a sheet of scenes with their truth, and the curve of a pretraining log.

python -m benchmarks.scene_figures --log ovseg_model/scenes_clip/training.csv --output docs/images
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_model.datasets.scene_files import palette
from ovseg_model.datasets.scenes import STYLES, draw_scene, numbers

SIZE_PX, GAP_PX, SHOWN = 128, 4, 7


def sheet() -> Image.Image:
    """Seven scenes of the validation split: both styles, and the label maps under them."""
    scenes = {style: [draw_scene(number, SIZE_PX, style) for number in numbers("val", SHOWN, 1)] for style in STYLES}
    labels = [Image.fromarray(palette()[scene.labels_HW]) for scene in scenes[STYLES[0]]]
    rows = [*([Image.fromarray(scene.image_HW3) for scene in scenes[style]] for style in STYLES), labels]
    step = SIZE_PX + GAP_PX
    picture = Image.new("RGB", (SHOWN * step - GAP_PX, len(rows) * step - GAP_PX), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            picture.paste(tile, (x * step, y * step))
    return picture


def draw_curve(log: Path, path: Path) -> None:
    """Loss against scenes seen, beside what knowing only the stuff, and all nouns, would give."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with log.open() as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    lines = (("loss", "this CLIP", "C0"), ("loss_stuff_only", "knowing stuff only", "C1"))
    for name, label, colour in (*lines, ("loss_all_nouns", "knowing all nouns, nothing else", "C2")):
        style = "-" if name == "loss" else "--"
        axes.plot(columns["scenes"] / 1000, columns[name], style, color=colour, label=label)
    axes.set(xlabel="scenes seen, thousands", ylabel="caption to scene loss, nats", ylim=(0, None))
    axes.legend(loc="lower left")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, default=Path("ovseg_model/scenes_clip/training.csv"))
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    sheet().save(arguments.output / "scenes.png", optimize=True)
    draw_curve(arguments.log, arguments.output / "scene_training.png")


if __name__ == "__main__":
    main()
