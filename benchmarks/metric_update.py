"""Milliseconds to count an image's pixels, beside torchmetrics' confusion matrix and numpy's bincount.

    python -m benchmarks.metric_update --output docs/metric_update.md

Label maps are drawn, 512 x 683, five of each kind: "regions" as a segmenter makes them, truth with smooth borders, the
prediction at a quarter of the resolution, stretched, with other borders and a third of the pixels wrong; "blocks";
and "noise", a quarter of the pixels wrong one by one, which no segmenter makes and run lengths are worst at. An update
is one image counted and added to the total: "ours". "ours, with each image's score" is what evaluation runs: the
image's own mean IoU comes with it, by which the worst and best ones are found. One thread, CPU seconds (others on the
machine do not change them), all ways in turns within one run, medians. torchmetrics is handed int64 tensors, made
before the clock starts, and told not to validate; ours is handed the uint16 maps and validates. First all totals are
compared: a difference fails the run.

The bars are 8x torchmetrics and 1.5x bincount, for both of our ways, on regions and blocks. Noise is the exception:
there "ours" may only not be slower than bincount, 8x torchmetrics is not reached, and scores of images have no bar.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.pages import write_page
from ovseg_model.datasets.benchmark import IGNORE
from ovseg_model.metrics import RunningCounts, count_images

HEIGHT, WIDTH = 512, 683
IMAGES = 5
REGIONS = 14
"""Of an image; regions of one class may touch."""

BARS = {"torchmetrics": 8, "numpy bincount": 1.5}
NOISE_BARS = {"numpy bincount": 1}
FAILED = "benchmark failed:"
OURS, OURS_WITH_SCORES = "ours", "ours, with each image's score"

Maps = tuple[np.ndarray, np.ndarray]
"""Prediction and truth, uint16 (H, W)."""


def smooth_fields(randoms: np.random.Generator, fields: int, height: int, width: int, sigma_px: float) -> np.ndarray:
    """Smooth noise of mean square 1, float64 (fields, height, width)."""
    noise = randoms.standard_normal((fields, height, width))
    smooth = np.stack([gaussian_filter(each, sigma_px) for each in noise])
    return smooth / smooth.std()


def stretched(small_hw: np.ndarray) -> np.ndarray:
    """A map at a quarter of the resolution by nearest neighbour."""
    return small_hw.repeat(4, axis=0).repeat(4, axis=1)[:HEIGHT, :WIDTH]


def regions(randoms: np.random.Generator, classes: int) -> Maps:
    """The largest of some smooth fields decides the class; the prediction sees them at a quarter, disturbed."""
    labels = randoms.integers(0, classes, REGIONS).astype(np.uint16)
    fields = smooth_fields(randoms, REGIONS, HEIGHT, WIDTH, 40)
    truth_HW = labels[fields.argmax(axis=0)]
    truth_HW[smooth_fields(randoms, 1, HEIGHT, WIDTH, 30)[0] > 1.8] = IGNORE
    small = fields[:, ::4, ::4]
    disturbed = small + 0.45 * smooth_fields(randoms, REGIONS, *small.shape[1:], 8)
    return stretched(labels[disturbed.argmax(axis=0)]), truth_HW


def blocks(randoms: np.random.Generator, classes: int) -> Maps:
    """Squares of 40 px; a quarter of the squares of 20 px predicted wrong, and a stripe ignored."""
    big = randoms.integers(0, classes, (-(-HEIGHT // 40), -(-WIDTH // 40))).astype(np.uint16)
    truth_HW = big.repeat(40, axis=0).repeat(40, axis=1)[:HEIGHT, :WIDTH].copy()
    small = randoms.integers(0, classes, (-(-HEIGHT // 20), -(-WIDTH // 20))).astype(np.uint16)
    wrong = randoms.random(small.shape) < 0.25
    wrong_HW, other_HW = (each.repeat(20, axis=0).repeat(20, axis=1)[:HEIGHT, :WIDTH] for each in (wrong, small))
    prediction_HW = np.where(wrong_HW, other_HW, truth_HW)
    truth_HW[:40] = IGNORE
    return prediction_HW, truth_HW


def noise(randoms: np.random.Generator, classes: int) -> Maps:
    """The truth of `blocks`, and a quarter of the pixels drawn again."""
    prediction_HW, truth_HW = blocks(randoms, classes)
    wrong_HW = randoms.random(truth_HW.shape) < 0.25
    other_HW = randoms.integers(0, classes, truth_HW.shape).astype(np.uint16)
    right_HW = np.where(truth_HW == IGNORE, prediction_HW, truth_HW)
    return np.where(wrong_HW, other_HW, right_HW), truth_HW


KINDS: dict[str, Callable[[np.random.Generator, int], Maps]] = {"regions": regions, "blocks": blocks, "noise": noise}


def our_total(maps: Sequence[Maps], classes: int) -> np.ndarray:
    """Counted and added up in one call."""
    return count_images(maps, classes).confusion_KP[:, 1:]


def our_scores(maps: Sequence[Maps], classes: int) -> np.ndarray:
    """The same with each image's own score, as `ovseg evaluate` and `ovseg score` count."""
    counts = RunningCounts(classes)
    for pair in maps:
        counts.add(*pair)
    return counts.total().confusion_KP[:, 1:]


def bincount_total(maps: Sequence[Maps], classes: int) -> np.ndarray:
    """The line that most evaluators have."""
    total = np.zeros((classes, classes), np.int64)
    for prediction_HW, truth_HW in maps:
        kept = truth_HW != IGNORE
        code = classes * truth_HW[kept].astype(np.int64) + prediction_HW[kept]
        total += np.bincount(code, minlength=classes**2).reshape(classes, classes)
    return total


def torchmetrics_total(tensors: Sequence[tuple[torch.Tensor, torch.Tensor]], classes: int) -> np.ndarray:
    """Its functional form, added up as its class does."""
    total = torch.zeros(classes, classes, dtype=torch.int64)
    for prediction_HW, truth_HW in tensors:
        total += multiclass_confusion_matrix(prediction_HW, truth_HW, classes, ignore_index=IGNORE, validate_args=False)
    return total.numpy()


def time_ways(ways: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds an image, in turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            spent[name].append(1000 * (time.process_time() - start) / IMAGES)
    return spent


def measure(kind: str, classes: int, repeats: int) -> Iterator[str]:
    """Rows of one kind of map, and lines of what is below its bar. Exits when the totals differ."""
    maps = [KINDS[kind](np.random.default_rng([classes, number]), classes) for number in range(IMAGES)]
    tensors = [tuple(torch.from_numpy(each.astype(np.int64)) for each in pair) for pair in maps]
    ways = {
        OURS: lambda: our_total(maps, classes),
        OURS_WITH_SCORES: lambda: our_scores(maps, classes),
        "numpy bincount": lambda: bincount_total(maps, classes),
        "torchmetrics": lambda: torchmetrics_total(tensors, classes),
    }
    totals = {name: way() for name, way in ways.items()}
    for name in totals:
        if not np.array_equal(totals[name], totals[OURS]):
            sys.exit(f"{FAILED} {name} and ours count {kind} of {classes} classes differently")
    spent = time_ways(ways, repeats)
    yield from rows(kind, classes, changes(maps), spent)
    yield from below_bars(kind, classes, spent)


def changes(maps: Sequence[Maps]) -> float:
    """Share of pixels that differ from the one before in either map: how many runs there are to count."""
    pairs = [np.stack(each).reshape(2, -1) for each in maps]
    return float(np.mean([(pair[:, 1:] != pair[:, :-1]).any(axis=0).mean() for pair in pairs]))


def ratio(spent: dict[str, list[float]], name: str, ours: str = OURS) -> float:
    """How many times as long as ours a way takes, by medians."""
    return statistics.median(spent[name]) / statistics.median(spent[ours])


def below_bars(kind: str, classes: int, spent: dict[str, list[float]]) -> Iterator[str]:
    """A line for each ratio below its bar."""
    for ours in (OURS,) if kind == "noise" else (OURS, OURS_WITH_SCORES):
        for name, wanted in (NOISE_BARS if kind == "noise" else BARS).items():
            if (got := ratio(spent, name, ours)) < wanted:
                yield f"{FAILED} {kind}, {classes} classes, {ours}: wanted {wanted}x {name} or more, got {got:.2f}x"


def rows(kind: str, classes: int, runs: float, spent: dict[str, list[float]]) -> Iterator[str]:
    """Table rows: median, spread, ratio."""
    for name, values in spent.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        median = statistics.median(values)
        yield f"| {kind} | {classes} | {runs:.1%} | {name} | {median:.2f} | {spread} | {ratio(spent, name):.2f} |"


HEADER = """| label maps | classes | runs a pixel | update | CPU ms an image, median | spread | ours is × |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="*", default=[150, 847])
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each way; the median counts")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        line for classes in arguments.classes for kind in KINDS for line in measure(kind, classes, arguments.repeats)
    ]
    failures = [line for line in lines if line.startswith(FAILED)]
    table = "\n".join([HEADER, *(line for line in lines if line not in failures)])
    print(table)
    if failures:
        sys.exit("\n".join(failures))
    if arguments.output:
        write_page(arguments.output, "Counting pixels", __doc__, [table], ("numpy", "torch", "torchmetrics"), 1)


if __name__ == "__main__":
    main()
