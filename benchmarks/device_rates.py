"""What one device does: seconds an image of SAM's everything-mode, regions a second of CLIP, and the host's part.

    python -m benchmarks.device_rates --device cuda --output docs/device_rates.md
    python -m benchmarks.device_rates --device cpu --sams vit_b --clips ViT-B-32/random --points-per-side 8

"device busy" is the share of the wall in which the device works for a model (ovseg_model/device_clock.py), "host cores"
the cores of CPU time that keep one device busy all the time: CPU seconds over the device's. "of a matmul" is the image
tower's multiplications and additions a second over what one large product of matrices reaches on the same device in the
same number format, measured first.

Weights are random: they take the time of trained ones. Predicted IoUs pass at the rate of trained ones (26 %), and
images are smooth noise of 480 x 640 px. Agreement comes first: of the masks of the same prompts 98 % of pixels must be
equal in --precision and in fp32, and vectors of regions must have cosines of 0.98 or more; else the run fails.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from benchmarks.masked_regions import PACKAGES
from benchmarks.pages import PAGE_WIDTH, processor_name, write_page
from benchmarks.sam_everything import LOGIT_DEVIATION, PASS_RATE
from benchmarks.segmenter import draw_ellipses, draw_image
from benchmarks.timing import require
from benchmarks.train_step import matmul_tflops, tower_tflop
from ovseg_model.clip import resolve_clip, resolve_device
from ovseg_model.device_clock import seconds_at_work
from ovseg_model.proposals.sam import SamOptions
from ovseg_model.proposals.sam_agreement import prompt_agreement
from ovseg_model.proposals.sam_everything import Batches, SamModel, everything, whole
from ovseg_model.rle import Rle, encode_masks
from ovseg_model.scorer import ClipScorer, ClipScorerSpec

HEIGHT, WIDTH = 480, 640
LEAST_EQUAL_PIXELS, LEAST_COSINE = 0.98, 0.98
CALIBRATION_POINTS = 8


@dataclass
class Rates:
    """What turns took, in seconds: of the wall, of all CPUs, and of the device's work."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    def run(self, way: Callable[[], object]) -> None:
        """Runs and times it once; whatever the device has still to do is waited for."""
        clocks = time.perf_counter, time.process_time, seconds_at_work
        before = [clock() for clock in reversed(clocks)]
        way()
        after = [clock() for clock in reversed(clocks)]
        for times, start, end in zip((self.device, self.cpu, self.wall), before, after, strict=True):
            times.append(end - start)

    @property
    def wall_median(self) -> float:
        """Of wall seconds."""
        return statistics.median(self.wall)

    def cells(self) -> str:
        """Table cells: how busy the device was, and the host's cores that it takes to keep it so."""
        device = statistics.median(self.device)
        cores = f"{statistics.median(self.cpu) / device:.1f}" if device else "-"
        return f"{device / self.wall_median:.0%} | {cores}"


class Setting(NamedTuple):
    """Where and how everything is run."""

    device: str
    precision: str
    repeats: int


def timed(way: Callable[[], object], repeats: int) -> Rates:
    """A way, after a first turn that does not count."""
    rates = Rates()
    way()
    for _ in range(repeats):
        rates.run(way)
    return rates


# Everything-mode.


def open_sam(build: Callable[[], Sam], setting: Setting, points_per_side: int) -> tuple[SamModel, SamOptions]:
    """A SAM of random weights on the device, and thresholds that pass as many masks as a trained one's.

    Exits where the number format's masks are far from fp32's.
    """
    torch.manual_seed(0)
    sam, image_HW3 = build().eval().requires_grad_(False), draw_image(np.random.default_rng(0), HEIGHT, WIDTH)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
    spread = logit_deviation(SamModel(copy.deepcopy(sam), setting.device), image_HW3)
    for head in sam.mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight *= LOGIT_DEVIATION / spread
        head.layers[-1].bias *= LOGIT_DEVIATION / spread
    exact = SamModel(copy.deepcopy(sam), setting.device)
    options = passing_options(exact, image_HW3, points_per_side)
    model = SamModel(sam, setting.device, setting.precision)
    with torch.inference_mode():
        found = prompt_agreement(exact, model, image_HW3, CALIBRATION_POINTS)
    require(found.equal_pixels >= LEAST_EQUAL_PIXELS, f"SAM in {setting.precision} beside fp32: {found}")
    return model, options


def logit_deviation(model: SamModel, image_HW3: np.ndarray) -> float:
    """Standard deviation of a random decoder's mask logits."""
    with torch.inference_mode():
        decoded = model.decode(
            model.embed([image_HW3], rows=1),
            model.decoder.point_tokens(torch.full((1, 1, 2), 100.0, device=model.device)),
        )
        frame = model.frame(whole(image_HW3), image_HW3.shape[:2])
        rows_R = torch.zeros(1, dtype=torch.int64, device=model.device)
        return model.mask_logits(decoded, rows_R, slice(None), frame).std().item()


def passing_options(model: SamModel, image_HW3: np.ndarray, points_per_side: int) -> SamOptions:
    """Thresholds that PASS_RATE of a few points' masks pass by predicted IoU, and four fifths of those by stability."""
    names = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    kept = everything(model, [image_HW3], SamOptions("none", points_per_side=CALIBRATION_POINTS, **names))[0]
    thresholds = {
        "pred_iou_thresh": float(np.quantile(kept.predicted_iou, 1 - PASS_RATE)),
        "stability_score_thresh": float(np.nanquantile(kept.stability, 0.2)),
    }
    return SamOptions("none", points_per_side=points_per_side, **thresholds)


def sam_row(name: str, build: Callable[[], Sam], setting: Setting, points_per_side: int, batches: Batches) -> str:
    """A line of the table: everything-mode of twice as many images as share a forward."""
    model, options = open_sam(build, setting, points_per_side)
    images = [draw_image(np.random.default_rng(seed), HEIGHT, WIDTH) for seed in range(2 * batches.images)]
    rates = timed(lambda: everything(model, images, options, batches), setting.repeats)
    an_image = rates.wall_median / len(images)
    return f"| {name} | {points_per_side} x {points_per_side} | {an_image:.3f} | {rates.cells()} |"


SAM_HEAD = "| SAM | points | seconds an image | device busy | host cores |\n|---|---:|---:|---:|---:|"


# Masked regions.


def draw_regions(images: int, masks: int) -> list[tuple[np.ndarray, list[Rle]]]:
    """Images of smooth noise with ellipses for masks."""
    drawn = []
    for seed in range(images):
        randoms = np.random.default_rng(seed)
        image_HW3, masks_NHW = draw_image(randoms, HEIGHT, WIDTH), draw_ellipses(randoms, masks, HEIGHT, WIDTH) > 0
        drawn.append((image_HW3, encode_masks(masks_NHW)))
    return drawn


def open_clip_scorer(name: str, setting: Setting, regions: str, region_batch: int) -> ClipScorer:
    """A CLIP as matching opens it."""
    threads = torch.get_num_threads()
    numbers = (setting.device, setting.precision, region_batch, "photo", 1.0, True, threads, regions)
    return ClipScorer(ClipScorerSpec(resolve_clip(name), *numbers))


def clip_row(name: str, setting: Setting, regions: str, region_batch: int, images: int, masks: int) -> str:
    """A line of the table. Exits where vectors are far from those of fp32."""
    drawn = draw_regions(images, masks)
    scorer = open_clip_scorer(name, setting, regions, region_batch)
    exact = open_clip_scorer(name, setting._replace(precision="fp32"), regions, region_batch)
    few = [(drawn[0][0], drawn[0][1][:8])]
    cosines = (scorer.embed_regions(few)[0] * exact.embed_regions(few)[0]).sum(axis=1)
    del exact
    require(cosines.min() >= LEAST_COSINE, f"{name} in {setting.precision}: cosine {cosines.min():.4f} with fp32")
    rates = timed(lambda: scorer.embed_regions(drawn), setting.repeats)
    a_second = images * masks / rates.wall_median
    tflops = a_second * tower_tflop(scorer.clip.model.visual)
    of_matmul = tflops / matmul_tflops(setting.device, setting.precision)
    facts = f"{region_batch} | {a_second:,.1f} | {tflops:.2f} | {of_matmul:.0%} | {rates.cells()}"
    return f"| {name} | {regions} | {facts} |"


CLIP_HEAD = (
    "| CLIP | regions | a forward | regions a second | TFLOP/s | of a matmul | device busy | host cores |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)


# The page.


def device_name(device: str) -> str:
    """What the device is called."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto takes a GPU where there is one")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--sams", nargs="*", default=["vit_b", "vit_l", "vit_h"], help="none: leave SAM out")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--image-batch", type=int, default=4, help="images of one encoder's forward")
    parser.add_argument("--points-per-batch", type=int, default=64, help="points of one decoder's forward")
    parser.add_argument("--clips", nargs="*", default=["ViT-B-16/random", "ViT-L-14/random"], help="none: leave it out")
    parser.add_argument("--region-batch", type=int, default=256, help="regions of one forward")
    parser.add_argument("--images", type=int, default=8, help="images whose regions are embedded in one call")
    parser.add_argument("--masks", type=int, default=100, help="regions of an image")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the median counts")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    given = parser.parse_args(argv)
    setting = Setting(resolve_device(given.device), given.precision, given.repeats)
    batches = Batches(given.image_batch, given.points_per_batch)
    sams = [sam_row(name, sam_model_registry[name], setting, given.points_per_side, batches) for name in given.sams]
    clips = [
        clip_row(name, setting, regions, given.region_batch, given.images, given.masks)
        for name in given.clips
        for regions in ("near", "float")
    ]
    sections = [
        textwrap.fill(f"Device: {device_name(setting.device)}; {given.precision}; {describe(given)}.", PAGE_WIDTH)
    ]
    sections += ["\n".join([SAM_HEAD, *sams])] if sams else []
    sections += ["\n".join([CLIP_HEAD, *clips])] if clips else []
    print("\n\n".join(sections))
    if given.output:
        write_page(given.output, "What one device does", __doc__, sections, PACKAGES, torch.get_num_threads())


def describe(given: argparse.Namespace) -> str:
    """Sizes, in words."""
    sam = f"{given.image_batch} images and {given.points_per_batch} points a forward of SAM"
    clip = f"{given.images} images of {given.masks} masks for CLIP"
    return f"{sam}; {clip}; medians of {given.repeats} turns"


if __name__ == "__main__":
    main()
