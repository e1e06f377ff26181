"""Recall and cost of the felzenszwalb generator against COCO instance masks: the table of docs/masks.md.

    OVSEG_TEST_DATA=<folder> python benchmarks/proposal_recall.py

Recall is the share of instances (no crowds, area over 32^2 pixels) that some proposal meets with IoU 0.5
or more; best IoU is the mean over instances of the best proposal's. Times are CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_model.proposals.generator import (
    ImageInput,
    MaskGenerator,
    MaskProposals,
    open_generator,
    propose_in_batches,
    resolve_generator,
)
from ovseg_model.rle import Rle, areas_px, iou_matrix

MIN_AREA_PX = 32**2

SETTINGS: dict[str, dict[str, object]] = {
    "default": {},
    "256 px": {"max_side_px": 256},
    "512 px": {"max_side_px": 512},
    "three scales": {"scales": (100, 400, 1600)},
    "six scales": {"scales": (50, 100, 200, 400, 800, 1600)},
}


def read_images(folder: Path, limit: int) -> list[ImageInput]:
    """Decode the first images of the sample, in the order of its JSON."""
    listed = json.loads((folder / "instances.json").read_text())["images"][:limit]
    paths = [folder / "images" / image["file_name"] for image in listed]
    return [ImageInput(path.stem, str(path), np.asarray(Image.open(path).convert("RGB"))) for path in paths]


def read_instances(folder: Path, images: Sequence[ImageInput]) -> list[list[Rle]]:
    """Return each image's instance masks of more than MIN_AREA_PX."""
    options = {"source": str(folder / "instances.json"), "keep_crowd": False}
    with tempfile.TemporaryDirectory() as work_folder:
        generator = open_generator(resolve_generator("annotations", options, "cpu", work_folder))
        outcomes = propose_in_batches(generator, images)
    return [_large(outcome.masks) if isinstance(outcome, MaskProposals) else [] for outcome in outcomes]


def _large(masks: list[Rle]) -> list[Rle]:
    return [mask for mask, area in zip(masks, areas_px(masks), strict=True) if area > MIN_AREA_PX]


def measure(generator: MaskGenerator, images: Sequence[ImageInput], instances: Sequence[list[Rle]]) -> str:
    """Return one row of the table: CPU seconds and masks per image, recall, mean best IoU."""
    start = time.process_time()
    outcomes = propose_in_batches(generator, images)
    elapsed_s = time.process_time() - start
    proposals = [outcome.masks if isinstance(outcome, MaskProposals) else [] for outcome in outcomes]
    pairs = zip(proposals, instances, strict=True)
    best = np.concatenate([iou_matrix(some, wanted).max(axis=0, initial=0) for some, wanted in pairs])
    count = sum(map(len, proposals)) / len(images)
    return f"{elapsed_s / len(images):.2f} | {count:.0f} | {(best >= 0.5).mean():.3f} | {best.mean():.3f}"


def main() -> None:
    """Print the table, one row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=103, help="images measured")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    arguments = parser.parse_args()
    folder = Path(os.environ["OVSEG_TEST_DATA"]) / "coco_sample"
    images = read_images(folder, arguments.limit)
    instances = read_instances(folder, images)
    print(f"{len(images)} images, {sum(map(len, instances))} instances")
    print("| setting | CPU s/image | masks/image | recall at IoU 0.5 | mean best IoU |\n|---|---|---|---|---|")
    for name in arguments.settings:
        generator = open_generator(resolve_generator("felzenszwalb", SETTINGS[name], "cpu", ""))
        print(f"| {name} | {measure(generator, images, instances)} |", flush=True)


if __name__ == "__main__":
    main()
