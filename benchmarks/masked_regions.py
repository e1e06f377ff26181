"""Seconds to cut 100 masked regions of an image for CLIP, beside one copy of the image and one PIL resize a mask.

    python -m benchmarks.masked_regions --output docs/region_speed.md

"usual" is what one writes without this project: for each mask the image is copied, filled behind the mask, cut to the
mask's box, resized to 224 x 224 by PIL and normalised. Ours are the three ways of `--regions`: exact, near, and float,
which mining takes when it is not told otherwise. The image is smooth noise of 480 x 640 px, masks are ellipses, 15 to
60 % of a side wide and high, drawn from a seed.

Equality comes first. exact must give the usual way's bytes. near and float may be off by 2 grey levels at most, 0.01
and 0.35 in the mean; and with the CLIP of drawn scenes the masked regions of drawn scenes must have cosines of 0.99 or
more between any way and the usual one. The way of near on a GPU, batched products, is checked here on the CPU as well:
2 levels at most, 0.001 in the mean. Else the run fails.

Then all are timed in turns on one thread, medians of CPU seconds (wall seconds stand beside them: where they lie far
apart the machine was busy), and the bars are on the ratio of medians: exact 3, near 7. "usual again" is the noise. A
run below a bar exits with 1 and writes nothing. With --device cuda the near way is timed there too, the image sent, cut
and normalised, without a bar: its host seconds are what feeds a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.pages import write_page
from benchmarks.results import note
from benchmarks.segmenter import draw_ellipses, draw_image
from benchmarks.timing import Times, require, time_in_turns
from ovseg_model.clip import load_clip, resolve_clip
from ovseg_model.datasets.scene_check import object_masks
from ovseg_model.datasets.scenes import draw_scene, numbers
from ovseg_model.integer_regions import device_regions, fill_levels, near_regions, pil_regions, send_masks
from ovseg_model.regions import RegionOptions, mask_boxes_xywh, normalise, region_batch

HEIGHT, WIDTH, SIZE_PX = 480, 640, 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPTIONS = RegionOptions()
SCENE_PX = 256
"""Side of the drawn scenes: objects are then larger than the input of their CLIP."""

BARS = {"exact": 3.0, "near": 7.0}
LEVELS = {"exact": (0.0, 0.0), "near": (2.01, 0.01), "near, batched": (2.01, 0.001), "float": (2.0, 0.35)}
"""Grey levels off the usual way's: at most, and in the mean."""

LEAST_COSINE = 0.99

PACKAGES = ("numpy", "torch", "open_clip_torch", "pillow")
"""Versions that its pages name, and those of others that cut regions."""

Cut = Callable[[np.ndarray, np.ndarray, int], torch.Tensor]
"""Image (H, W, 3), masks (N, H, W) and side S to the model's input, float32 (N, 3, S, S)."""


def usual(image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int) -> torch.Tensor:
    """Copy, fill, crop, resize, normalise; a mask at a time."""
    regions = []
    for mask_HW in masks_NHW:
        filled = image_HW3.copy()
        filled[~mask_HW] = np.round(255 * np.array(MEAN))
        x, y, width, height = mask_boxes_xywh(mask_HW[None])[0].tolist()
        crop = Image.fromarray(filled[y : y + height, x : x + width])
        square = np.array(crop.resize((size_px, size_px), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(square).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
        regions.append((pixels - mean) / std)
    return torch.stack(regions)


def exact(image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int) -> torch.Tensor:
    """--regions exact."""
    return normalise(pil_regions(image_HW3, masks_NHW, size_px, MEAN, OPTIONS), MEAN, STD)


def near(image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int) -> torch.Tensor:
    """--regions near on a CPU."""
    return normalise(near_regions(image_HW3, masks_NHW, size_px, MEAN, OPTIONS), MEAN, STD)


def batched(image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int, device: str = "cpu") -> torch.Tensor:
    """--regions near on a GPU."""
    sent = send_masks(image_HW3, masks_NHW, OPTIONS, device)
    regions = normalise(device_regions([sent], size_px, fill_levels(MEAN, OPTIONS)), MEAN, STD)
    if device != "cpu":
        torch.cuda.synchronize()
    return regions


def in_fractions(image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int) -> torch.Tensor:
    """--regions float."""
    return region_batch(image_HW3, masks_NHW, size_px, MEAN, STD, OPTIONS)


WAYS: dict[str, Cut] = {"exact": exact, "near": near, "near, batched": batched, "float": in_fractions}


@dataclass(frozen=True)
class Agreement:
    """How far a way is off the usual one."""

    largest_levels: float
    mean_levels: float
    least_cosine: float
    mean_cosine: float


def agreements(image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int, scenes: int) -> dict[str, Agreement]:
    """Of every way: grey levels on the image that is timed, cosines of the CLIP of drawn scenes on drawn scenes."""
    clip = load_clip(resolve_clip("scenes"))
    drawn = [draw_scene(number, SCENE_PX) for number in numbers("test", scenes)]

    def vectors(way: Cut) -> np.ndarray:
        regions = [way(scene.image_HW3, object_masks(scene), clip.image_size_px) for scene in drawn]
        return clip.embed_images(torch.cat(regions))

    usually, usual_vectors = usual(image_HW3, masks_NHW, size_px), vectors(usual)
    found = {}
    for name, way in WAYS.items():
        levels = 255 * (way(image_HW3, masks_NHW, size_px) - usually).abs() * torch.tensor(STD).reshape(3, 1, 1)
        cosines = (vectors(way) * usual_vectors).sum(axis=1)
        found[name] = Agreement(*(float(each) for each in (levels.max(), levels.mean(), cosines.min(), cosines.mean())))
    return found


def check(name: str, found: Agreement) -> None:
    """Ends the run where a way is further off than it may be."""
    largest, mean = LEVELS[name]
    off = f"{name}: {found.largest_levels:.2f} grey levels off at most, {found.mean_levels:.4f} in the mean"
    require(found.largest_levels <= largest and found.mean_levels <= mean, off)
    require(found.least_cosine >= LEAST_COSINE, f"{name}: a cosine of {found.least_cosine:.4f} with the usual way")


HEADER = """| way | ms, median of CPU | of wall | spread of wall | × | levels off, most | mean | cosine, least | mean |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


def measure(
    masks: int, size_HW: tuple[int, int], size_px: int, scenes: int, repeats: int, device: str
) -> Iterator[str]:
    """Checks, times, and yields the lines of the table. Exits where a bar is not held."""
    randoms = np.random.default_rng(0)
    image_HW3 = draw_image(randoms, *size_HW)
    masks_NHW = draw_ellipses(randoms, masks, *size_HW) > 0
    agreement = agreements(image_HW3, masks_NHW, size_px, scenes)
    for name, found in agreement.items():
        check(name, found)
    usually = usual(image_HW3, masks_NHW, size_px)
    require(torch.equal(exact(image_HW3, masks_NHW, size_px), usually), "exact is not the usual way's bytes")
    ways = {"usual": usual, "usual again": usual, **WAYS}
    if device != "cpu":
        ways[f"near on {torch.cuda.get_device_name(device)}"] = partial(batched, device=device)
    times = time_in_turns({name: partial(way, image_HW3, masks_NHW, size_px) for name, way in ways.items()}, repeats)
    yield HEADER
    for name, each in times.items():
        yield row(name, each, times["usual"].cpu_median / each.cpu_median, agreement.get(name))
    for name, bar in BARS.items():
        ratio = times["usual"].cpu_median / times[name].cpu_median
        note(f"{len(masks_NHW)} masked regions, {name}", "a copy of the image and a PIL resize a mask", ratio, bar)
        require(ratio >= bar, f"{name}: wanted {bar:g}x the usual way or more, got {ratio:.2f}x")


def row(name: str, times: Times, ratio: float, found: Agreement | None) -> str:
    """A row of the table."""
    spread = f"{1000 * min(times.wall):.0f} to {1000 * max(times.wall):.0f}"
    seconds = f"{1000 * times.cpu_median:.0f} | {1000 * times.wall_median:.0f} | {spread} | {ratio:.2f}"
    if found is None:
        return f"| {name} | {seconds} | | | | |"
    levels = f"{found.largest_levels:.2f} | {found.mean_levels:.5f}"
    return f"| {name} | {seconds} | {levels} | {found.least_cosine:.5f} | {found.mean_cosine:.5f} |"


def main() -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--scenes", type=int, default=24, help="drawn scenes whose regions' cosines are compared")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each way; the median counts")
    parser.add_argument("--device", default="cpu", help="cuda: the near way is timed there too")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size_HW = (HEIGHT, WIDTH)
    lines = []
    for line in measure(arguments.masks, size_HW, SIZE_PX, arguments.scenes, arguments.repeats, arguments.device):
        print(line, flush=True)
        lines.append(line)
    if arguments.output:
        title = f"## {arguments.masks} masks of {HEIGHT} x {WIDTH} px to {SIZE_PX} x {SIZE_PX}\n\n"
        threads = torch.get_num_threads()
        write_page(arguments.output, "Speed of masked regions", __doc__, [title + "\n".join(lines)], PACKAGES, threads)


if __name__ == "__main__":
    main()
