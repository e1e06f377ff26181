"""Seconds to segment an image, its proposals given, beside one PIL crop and one CLIP forward a region.

    python -m benchmarks.segmenter --clip scenes ViT-B-16/random --output docs/segmenter_speed.md

"one by one" is what one writes without this project: for each region the image is copied, filled behind the mask, cut
to its box, resized by PIL and normalised, and CLIP runs on it alone; then a softmax over the classes, and
`torch.einsum` and `argmax` to a map. "ours" is `Segmenter.segment` behind a generator that hands out the same masks.
Both know 150 class vectors, made before the clock starts. Images are smooth noise, regions are ellipses, 15 to 60 % of
a side wide and high, drawn from a seed: neither's time depends on what an image shows.

Equality comes first. PIL rounds to 8 bits after each of its passes and its fill is a whole grey level, ours are
neither, so pixels are not equal and the ways are compared in two halves. The regions that PIL made go through both
ways' CLIP: logits, 100 cosines, may differ by 1e-4, else the run fails. Our regions may be 1.6 grey levels off PIL's,
0.35 in the mean, else the run fails. What PIL's rounding does to the cosines stands beside it,
without a bar. From the same scores both maps must have the same labels in 99.99 % of the pixels that a mask covers
(sums may round differently, so near ties may not agree).

Then both are timed in turns, medians of wall seconds, and the bar is on the ratio of medians. CPU seconds stand beside
them: where they lie far apart the machine was busy. A run below its bar exits with 1 and writes nothing. The rows below
each way are its parts, timed in the same turns. Scenes' own size, 192 px, has no bar: cutting a region out of so small
an image costs little in either way, and what is left is CLIP's arithmetic.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from benchmarks.pages import write_page
from benchmarks.timing import FAILED, Times, require, time_in_turns
from ovseg_model.class_embeddings import ClassEmbeddings
from ovseg_model.class_names import ClassVectors, embed_classes, split_names
from ovseg_model.clip import Clip, load_clip, resolve_clip
from ovseg_model.datasets.benchmark import open_label_map_benchmark
from ovseg_model.label_png import UNLABELLED
from ovseg_model.proposals.generator import ImageInput
from ovseg_model.proposals.soft import SoftProposals
from ovseg_model.region_encoder import RegionEncoder
from ovseg_model.regions import RegionOptions, mask_boxes_xywh, region_batch
from ovseg_model.segment import LOGIT_SCALE, SUMS_IN_CACHE, ScoredProposals, Segmenter, SegmentOptions, label_map

CASES = {"scenes": ((40, 20, 480, 640, 3.0), (40, 20, 192, 192, None))}
"""Regions, how many of them a forward, height and width of the image, and bar, of the cases of a CLIP."""

OTHER = ((16, 16, 480, 640, 1.1),)
"""Of any other CLIP."""

OPTIONS = SegmentOptions(clip_weight=1.0)
REGION_OPTIONS = RegionOptions()
TEMPLATE = "a photo of a {}."
MAP_PROPOSALS, MAP_HEIGHT, MAP_WIDTH = 100, 480, 640
MAP_CLASSES = (150, 847)
LARGEST_LOGIT_DIFFERENCE = 1e-4
LARGEST_LEVELS, MEAN_LEVELS = 1.6, 0.35
"""Grey levels between our regions and PIL's, as in tests/test_regions.py."""

LEAST_SAME_LABELS = 0.9999


def draw_image(randoms: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth colour noise, RGB uint8 (H, W, 3)."""
    noise = np.stack([gaussian_filter(randoms.standard_normal((height, width)), 6) for _ in range(3)], axis=2)
    return np.clip(128 + 64 * noise / noise.std(), 0, 255).astype(np.uint8)


def draw_ellipses(randoms: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """How far inside an ellipse each pixel is, 1 at its centre and 0 at its border, float64 (N, H, W)."""
    sides = randoms.uniform(0.15, 0.6, (count, 2)) * (height, width)
    centres = randoms.uniform(sides / 2, (height, width) - sides / 2)
    y, x = np.ogrid[:height, :width]
    pairs = zip(centres, sides, strict=True)
    return np.stack([1 - (2 * (y - cy) / h) ** 2 - (2 * (x - cx) / w) ** 2 for (cy, cx), (h, w) in pairs])


@dataclass
class GivenProposals:
    """A proposal network that has its masks already."""

    masks_NHW: np.ndarray
    name: str = "given"
    batch_size: int = 1

    def propose_soft(self, images: Sequence[ImageInput], class_vectors_KD: np.ndarray) -> list[SoftProposals]:
        """The masks, without classes."""
        return [SoftProposals(self.masks_NHW) for _ in images]


@dataclass
class OneByOne:
    """A PIL crop and a forward a region."""

    clip: Clip
    image_HW3: np.ndarray
    masks_NHW: np.ndarray
    classes: ClassVectors

    def region(self, mask_HW: np.ndarray) -> torch.Tensor:
        """One region, float32 (1, 3, S, S), normalised."""
        filled = self.image_HW3.copy()
        filled[~mask_HW] = np.round(255 * np.array(self.clip.mean))
        x, y, width, height = mask_boxes_xywh(mask_HW[None])[0].tolist()
        side = self.clip.image_size_px
        square = Image.fromarray(filled[y : y + height, x : x + width]).resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (self.clip.mean, self.clip.std))
        return ((pixels - mean) / std)[None]

    def regions(self) -> list[torch.Tensor]:
        """All regions."""
        return [self.region(mask_HW) for mask_HW in self.masks_NHW]

    def forwards(self, regions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Unit vectors, float32 (N, D)."""
        with torch.inference_mode():
            features = [self.clip.model.encode_image(region) for region in regions]
        return torch.nn.functional.normalize(torch.cat(features), dim=-1)

    def cosines(self, regions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Cosines, float32 (N, K)."""
        return self.forwards(regions) @ torch.from_numpy(self.classes.vectors_VD).T

    def segment(self) -> np.ndarray:
        """The label map."""
        return einsum_map(torch.softmax(LOGIT_SCALE * self.cosines(self.regions()), dim=1), self.masks_NHW)


def einsum_map(scores_NK: torch.Tensor, masks_NHW: np.ndarray) -> np.ndarray:
    """The usual way to a label map: all sums at once, int64 (H, W)."""
    masks = torch.from_numpy(masks_NHW).float()
    return torch.einsum("nk,nhw->khw", scores_NK, masks).argmax(dim=0).numpy()


def same_share(labels_HW: np.ndarray, others_HW: np.ndarray) -> float:
    """Share of equal labels where ours has one."""
    labelled = labels_HW != UNLABELLED
    return float((labels_HW == others_HW)[labelled].mean())


@dataclass(frozen=True)
class Case:
    """One CLIP with what it segments, and the two ways."""

    clip: Clip
    image: ImageInput
    masks_NHW: np.ndarray
    classes: ClassVectors
    bar: float | None

    @property
    def usual(self) -> OneByOne:
        """The usual way."""
        return OneByOne(self.clip, self.image.pixels_HW3, self.masks_NHW, self.classes)

    def segment(self) -> list:
        """Ours."""
        regions = RegionEncoder(self.clip, REGION_OPTIONS)
        return list(Segmenter(GivenProposals(self.masks_NHW), regions, OPTIONS).segment([self.image], self.classes))

    def cut(self) -> torch.Tensor:
        """Our regions."""
        clip = self.clip
        pixels_HW3 = self.image.pixels_HW3
        return region_batch(pixels_HW3, self.masks_NHW, clip.image_size_px, clip.mean, clip.std, REGION_OPTIONS)


def open_cases(name: str, regions: int | None, region_batch_: int | None) -> Iterator[Case]:
    """The cases of one CLIP."""
    for count, batch, *size, bar in CASES.get(name, OTHER):
        yield open_case(name, regions or count, region_batch_ or batch, size, bar)


def open_case(
    name: str, count: int, region_batch_: int, size_HW: Sequence[int], bar: float | None, seed: int = 0
) -> Case:
    """Loads the CLIP, draws the image and embeds the classes."""
    clip = load_clip(resolve_clip(name), "cpu", "fp32", image_batch=region_batch_)
    randoms = np.random.default_rng(seed)
    image = ImageInput("image", "", draw_image(randoms, *size_HW))
    masks_NHW = draw_ellipses(randoms, count, *size_HW) > 0
    names = split_names(open_label_map_benchmark("ade20k-150").names(), "verbatim")
    return Case(clip, image, masks_NHW, embed_classes(ClassEmbeddings(clip, (TEMPLATE,)), names, "verbatim"), bar)


def check_equal(case: Case) -> Iterator[str]:
    """Lines of what was compared. Exits where the two ways differ."""
    usual = case.usual
    pil = usual.regions()
    theirs = usual.cosines(pil).numpy()
    ours = case.clip.embed_images(torch.cat(pil)) @ case.classes.vectors_VD.T
    difference = LOGIT_SCALE * np.abs(theirs - ours).max()
    require(difference <= LARGEST_LOGIT_DIFFERENCE, f"logits of the same regions differ by {difference:.1e}")
    yield f"logits of the same regions differ by {difference:.1e} at most"
    levels = 255 * np.abs((torch.cat(pil) - case.cut()).numpy()) * np.array(case.clip.std).reshape(3, 1, 1)
    largest, mean = levels.max(), levels.mean()
    require(largest <= LARGEST_LEVELS and mean <= MEAN_LEVELS, f"regions are {largest:.2f} levels off PIL's")
    rounded = np.abs(theirs - case.clip.embed_images(case.cut()) @ case.classes.vectors_VD.T).max()
    yield (
        f"PIL's rounding: regions differ by {largest:.2f} grey levels at most, {mean:.2f} in the mean, cosines by "
        f"{rounded:.1e} at most, logits by {LOGIT_SCALE * rounded:.1e}"
    )
    (found,) = case.segment()
    same = same_share(found.labels_HW, einsum_map(torch.from_numpy(found.proposals.scores_NK), case.masks_NHW))
    require(same >= LEAST_SAME_LABELS, f"only {same:.4%} of the labels agree")
    yield f"{same:.3%} of the labels agree, from the same scores"


HEADER = """| way | wall ms, median | spread | CPU ms | ours is × |
|---|---:|---:|---:|---:|"""


def measure(case: Case, repeats: int) -> tuple[str, float]:
    """The Markdown section of a case, and how many times as long as ours the usual way takes."""
    checked = list(check_equal(case))
    usual, ours = case.usual, case.cut()
    pil = usual.regions()
    (found,) = case.segment()
    scores_NK = torch.from_numpy(found.proposals.scores_NK)
    ways = {
        "one by one": usual.segment,
        "ours": case.segment,
        "one by one: regions": usual.regions,
        "ours: regions": case.cut,
        "one by one: forwards": lambda: usual.forwards(pil),
        "ours: forwards": lambda: case.clip.embed_images(ours),
        "one by one: map": lambda: einsum_map(scores_NK, case.masks_NHW),
        "ours: map": lambda: label_map(found.proposals, case.masks_NHW.shape[1:], OPTIONS),
    }
    times = time_in_turns(ways, repeats)
    ratio = times["one by one"].wall_median / times["ours"].wall_median
    height, width = case.masks_NHW.shape[1:]
    title = (
        f"## {case.clip.weights.name}: {len(case.masks_NHW)} regions of {height} x {width} px, "
        f"{case.clip.image_batch} a forward\n\n" + "; ".join(checked) + f"; bar {case.bar or 'none'}.\n"
    )
    return "\n".join([title, HEADER, *rows(times)]), ratio


def rows(times: dict[str, Times]) -> Iterator[str]:
    """Table rows; the ratio is to our way's, or our part's."""
    for name, each in times.items():
        counterpart = times[name.replace("one by one", "ours")]
        ratio = f"{each.wall_median / counterpart.wall_median:.2f}" if counterpart is not each else "1"
        yield f"| {name} | {each.cells()} | {ratio} |"


def measure_maps(repeats: int) -> str:
    """The Markdown section of label maps of many classes from soft masks."""
    randoms = np.random.default_rng(1)
    inside = draw_ellipses(randoms, MAP_PROPOSALS, MAP_HEIGHT, MAP_WIDTH)
    masks = expit(12 * inside).astype(np.float32)
    lines = [
        f"## Label maps: {MAP_PROPOSALS} soft masks, {MAP_HEIGHT} x {MAP_WIDTH} px\n\n{MAPS}\n",
        "| classes | way | wall ms, median | spread | CPU ms | sums held, MB |\n|---:|---|---:|---:|---:|---:|",
    ]
    for classes in MAP_CLASSES:
        lines += map_rows(randoms, masks, classes, repeats)
    return "\n".join(lines)


MAPS = """Masks fall from 1 to 0 at the borders of ellipses, as a sigmoid does; scores are a softmax of normal logits of
deviation 2.5, which gives the best class of a proposal about a tenth to a half."""


def map_rows(randoms: np.random.Generator, masks_NHW: np.ndarray, classes: int, repeats: int) -> Iterator[str]:
    """Table rows of one number of classes."""
    logits = 2.5 * randoms.standard_normal((len(masks_NHW), classes))
    scores_NK = torch.softmax(torch.from_numpy(logits), dim=1).float()
    scored = ScoredProposals(masks_NHW, scores_NK.numpy(), np.ones(len(masks_NHW), bool))
    size_HW = masks_NHW.shape[1:]
    same = same_share(label_map(scored, size_HW, OPTIONS), einsum_map(scores_NK, masks_NHW))
    require(same >= LEAST_SAME_LABELS, f"{classes} classes: only {same:.4%} of the labels agree")
    ways = {
        "torch.einsum": lambda: einsum_map(scores_NK, masks_NHW),
        "ours": lambda: label_map(scored, size_HW, OPTIONS),
    }
    sums = classes * masks_NHW[0].size
    held = {"torch.einsum": sums, "ours": min(sums, SUMS_IN_CACHE)}
    for name, each in time_in_turns(ways, repeats).items():
        yield f"| {classes} | {name} | {each.cells()} | {4 * held[name] / 1e6:.0f} |"


def main() -> None:
    """Checks, times, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", nargs="*", default=["scenes", "ViT-B-16/random"])
    parser.add_argument("--regions", type=int, help="of an image; 40 with scenes, else 16")
    parser.add_argument("--region-batch", type=int, help="regions a forward; 20 with scenes, else 16")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--output", type=Path, help="file for the Markdown page")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sections, failures = [], []
    for case in (
        each for name in arguments.clip for each in open_cases(name, arguments.regions, arguments.region_batch)
    ):
        section, ratio = measure(case, arguments.repeats)
        print(section, "\n", flush=True)
        sections.append(section)
        if case.bar and ratio < case.bar:
            failures.append(
                f"{FAILED} {case.clip.weights.name}: wanted {case.bar}x one by one or more, got {ratio:.2f}x"
            )
    sections.append(measure_maps(arguments.repeats))
    print(sections[-1])
    require(not failures, "\n".join(failures).removeprefix(f"{FAILED} "))
    if arguments.output:
        packages = ("numpy", "torch", "open_clip_torch", "pillow")
        write_page(arguments.output, "Speed of the segmenter", __doc__, sections, packages, arguments.threads)


if __name__ == "__main__":
    main()
